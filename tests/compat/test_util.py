"""Helpers that handlers import by name."""

from __future__ import annotations

import json
import types
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from wfserve.child.surroundings import COMPAT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def util(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(COMPAT)
    import ts.utils.util

    return ts.utils.util


@pytest.mark.parametrize(
    ("content", "mapping"),
    [
        ({"0": "cat", "1": "dog"}, {"0": "cat", "1": "dog"}),
        ({"0": ["n01", "cat"]}, {"0": "cat"}),
        ({"object_type_names": ["cat", "dog"]}, {"0": "cat", "1": "dog"}),
        ({"object_type_names": {"1": "cat"}}, {"1": "cat"}),
    ],
)
def test_label_files(util: Any, tmp_path: Path, content: Any, mapping: dict[str, str]) -> None:
    path = tmp_path / "index_to_name.json"
    path.write_text(json.dumps(content))
    assert util.load_label_mapping(str(path)) == mapping


def test_no_label_file_and_a_broken_one(util: Any, tmp_path: Path) -> None:
    path = tmp_path / "index_to_name.json"
    assert util.load_label_mapping(str(path)) is None
    path.write_text('"text"')
    with pytest.raises(ValueError, match="JSON object"):
        util.load_label_mapping(str(path))


def test_probabilities_by_label(util: Any) -> None:
    probs = [[0.9, 0.1], [0.3, 0.7]]
    assert util.map_class_to_label(probs) == [{"0": 0.9, "1": 0.1}, {"0": 0.3, "1": 0.7}]
    assert util.map_class_to_label(probs, {"3": "cat", "5": "dog"}, [[3, 5], [5, 3]]) == [
        {"cat": 0.9, "dog": 0.1},
        {"dog": 0.3, "cat": 0.7},
    ]
    with pytest.raises(TypeError, match="list of lists"):
        util.map_class_to_label([0.9, 0.1])


def test_classes_of_a_module_are_its_own(util: Any) -> None:
    module = types.ModuleType("made_up")
    exec("import io\nfrom io import BytesIO\nclass A: pass\nclass B(A): pass", module.__dict__)
    assert [each.__name__ for each in util.list_classes_from_module(module)] == ["A", "B"]
    assert [each.__name__ for each in util.list_classes_from_module(module, module.B)] == ["B"]


def test_a_prediction_exception_says_both(util: Any) -> None:
    error = util.PredictionException("no cat", 422)
    assert (error.message, error.error_code, str(error)) == (
        "no cat",
        422,
        "no cat : 422",
    )
    assert util.PredictionException("x").error_code == 500


def test_markup_is_found(util: Any) -> None:
    assert util.CLEANUP_REGEX.sub("", "<p>a</p> &amp;&#12;&#x1f; b & c") == "a  b & c"


def test_yaml_files_hold_plain_values(util: Any, tmp_path: Path) -> None:
    path = tmp_path / "model-config.yaml"
    path.write_text("handler: {profile: true}")
    assert util.get_yaml_config(str(path)) == {"handler": {"profile": True}}
    path.write_text("!!python/object/apply:os.getcwd []")
    with pytest.raises(yaml.YAMLError):
        util.get_yaml_config(str(path))


def test_a_deprecated_function_warns_and_works(util: Any) -> None:
    @util.deprecated("1.0", "new")  # type: ignore[untyped-decorator]
    def old(value: int) -> int:
        return value + 1

    with pytest.warns(PendingDeprecationWarning, match=r"old is deprecated in 1\.0, use new"):
        assert old(1) == 2


def test_backends_are_those_of_this_torch(util: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert util.check_valid_pt2_backend("inductor")
    assert not util.check_valid_pt2_backend("made_up")
    assert "made_up" in caplog.text

"""Checking names every fault with its place, in whatever the specification comes in."""

import json
import textwrap
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfserve.archive.extract import ExtractLimits, extract
from wfserve.archive.functions import HandlerNames
from wfserve.archive.pack import ModelArchiveOptions, WorkflowArchiveOptions, pack_model, pack_workflow
from wfserve.dag.check import check_file, check_spec

SPEC = """\
models:
  batch-size: 4
  cnn: {url: cnn.mar}
  mlp: {url: mlp.mar}
dag:
  prepare: [cnn, mlp]
  cnn: [vote]
  mlp: [vote]
"""
HANDLER = "def prepare(data, context): return data\ndef vote(data, context): return data\n"


def findings(text: str, functions: object = ("prepare", "vote")) -> list[str]:
    """Return what is found in `text`, without the file's name."""
    found = check_spec(textwrap.dedent(text), "w.yaml", functions)  # type: ignore[arg-type]
    return [str(diagnostic).removeprefix("w.yaml:") for diagnostic in found]


def workflow(directory: Path, spec: str = SPEC, handler: str = HANDLER) -> Path:
    """Pack a workflow archive."""
    (directory / "w.yaml").write_text(spec)
    (directory / "h.py").write_text(handler)
    return pack_workflow(
        WorkflowArchiveOptions("w", directory / "w.yaml", directory / "h.py", export_path=directory)
    )


@pytest.mark.parametrize(("model", "said"), [({"handler": "h.py"}, []), ({}, ["warning"])])
def test_a_model_without_a_handler_takes_the_servers(tmp_path, model, said):
    (tmp_path / "MAR-INF").mkdir()
    (tmp_path / "MAR-INF/MANIFEST.json").write_text(json.dumps({"model": {"modelName": "m", **model}}))
    found = check_file(tmp_path)
    assert [each.severity for each in found] == said
    assert all("default_service_handler" in each.message for each in found)


@pytest.mark.parametrize("functions", [None, ("prepare", "vote"), HandlerNames(frozenset(), complete=True)])
def test_a_good_specification(functions: object) -> None:
    expected = [] if not isinstance(functions, HandlerNames) else ["6:3", "7:9"]
    assert [line.partition(": ")[0] for line in findings(SPEC, functions)] == expected


UNKNOWN = "is neither a model nor a function of the handler file"
ONE_START = "DAG should have only one start node: the start node is the one that is nobody's child"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("cnn: [vote]", "cnn: [vte]", f"7:9: error: 'vte' {UNKNOWN} (did you mean 'vote'?)"),
        (
            "batch-size",
            "batchsize",
            "2:3: error: 'batchsize' is neither a setting nor a map with the model's url"
            " (did you mean 'batch-size'?)",
        ),
        (
            "cnn: [vote]",
            "cnn: [vote, vote]",
            "7:15: error: loop exception: an edge is given twice (cnn)",
        ),
        (
            "cnn: [vote]",
            "cnn: [vote, cnn]",
            "7:15: error: Self loop exception: a node is its own child (cnn)",
        ),
        (
            "cnn: [vote]",
            "cnn: [vote]\n  vote: [mlp]",
            "9:3: error: Not a valid DAG: there is a cycle (mlp, vote)",
        ),
        (
            "cnn: [vote]",
            "cnn: [vote]\n  vote: [prepare]",
            f"6:3: error: {ONE_START} (prepare, cnn, mlp, vote)",
        ),
        ("cnn, mlp]", "cnn]", f"6:3: error: {ONE_START} (prepare, mlp)"),
        (
            "dag:",
            "functions:\n  vot: {}\ndag:",
            "6:3: warning: 'vot' is not in the dag (did you mean 'vote'?)",
        ),
        ("  batch-size: 4", "  x: {url: x.mar}", "2:3: warning: model 'x' is not used in the dag"),
    ],
)
def test_one_fault(old: str, new: str, expected: str) -> None:
    assert findings(SPEC.replace(old, new)) == [expected]


def test_a_misspelt_model() -> None:
    text = SPEC.replace("[cnn, mlp]", "[cmn, mlp]").replace("cnn: [vote]", "cmn: [vote]")
    unused = "3:3: warning: model 'cnn' is not used in the dag"
    known = "6:13: error: 'cmn' is neither a model nor a function of the handler file (did you mean 'cnn'?)"
    assert findings(text) == [unused, known]
    assert findings(text, None) == [unused, "6:13: error: 'cmn' is not a model (did you mean 'cnn'?)"]


def test_what_a_handler_may_define_out_of_sight_is_only_a_warning() -> None:
    found = findings(SPEC, HandlerNames(frozenset({"vote"}), complete=False))
    assert found == ["6:3: warning: 'prepare' is neither a model nor a function of the handler file"]


def test_everything_at_once_in_file_order() -> None:
    found = findings("models:\n  batch-size: 0\n  m: {}\ndag:\n  a: [b]\n  c: [a]\n  d: [a]\n", ())
    assert [line.split(":")[0] for line in found] == ["2", "3", "3", "5", "5", "6", "6", "7"]


def test_no_yaml() -> None:
    assert findings("a: [") == [
        "1:5: error: while parsing a flow node, expected the node content, but found '<stream end>'"
    ]


def test_an_archive(tmp_path: Path) -> None:
    archive = workflow(tmp_path)
    assert check_file(archive) == []
    extract(archive, tmp_path / "unpacked", ExtractLimits())
    assert check_file(tmp_path / "unpacked") == []


def test_kinds_are_told_by_content(tmp_path: Path) -> None:
    spec = tmp_path / "spec.war"
    spec.write_text("models: {}\n")
    assert [str(found) for found in check_file(spec)] == [
        f"{spec}:1:1: error: a specification needs a 'dag' section"
    ]
    archive = workflow(tmp_path, SPEC.replace("vote", "vot")).rename(tmp_path / "w.mar")
    assert [str(found) for found in check_file(archive)] == [
        f"{archive}/w.yaml:7:9: error: 'vot' is neither a model nor a function of the handler file"
        " (did you mean 'vote'?)"
    ]


def test_the_handler_is_never_run(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    archive = workflow(tmp_path, handler=HANDLER + f"open({str(trap)!r}, 'w')\n")
    assert check_file(archive) == []
    assert not trap.exists()


def test_a_handler_that_is_not_python(tmp_path: Path) -> None:
    found = [str(diagnostic) for diagnostic in check_file(workflow(tmp_path, handler="def prepare(:\n"))]
    assert f"{tmp_path}/w.war/h.py:1:13: error: not Python: invalid syntax" in found
    assert all("warning" in line for line in found if "w.yaml" in line)


def test_a_handler_that_is_missing(tmp_path: Path) -> None:
    archive = workflow(tmp_path)
    extract(archive, tmp_path / "unpacked", ExtractLimits())
    (tmp_path / "unpacked/h.py").unlink()
    assert any("is not in the archive: h.py" in str(found) for found in check_file(tmp_path / "unpacked"))


def test_no_handler_at_all(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(SPEC)
    archive = pack_workflow(WorkflowArchiveOptions("w", tmp_path / "w.yaml", export_path=tmp_path))
    assert [found.is_error for found in check_file(archive)] == [True, True]


def test_a_model(tmp_path: Path) -> None:
    (tmp_path / "h.py").write_text("")
    (tmp_path / "c.yaml").write_text("minWorkers: [")
    model = ModelArchiveOptions("m", str(tmp_path / "h.py"), "1.0", export_path=tmp_path)
    assert check_file(pack_model(model)) == []
    bad = ModelArchiveOptions(
        "n", str(tmp_path / "h.py"), "1.0", export_path=tmp_path, config_file=tmp_path / "c.yaml"
    )
    (found,) = check_file(pack_model(bad))
    assert "Failed to parse model config file c.yaml: line 1, column 14" in found.message


def test_files_that_are_nothing(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("x", "")
    (tmp_path / "empty").mkdir()
    for name in ("missing", "binary", "zip", "empty"):
        (found,) = check_file(tmp_path / name)
        assert found.is_error
        assert found.file == str(tmp_path / name)


NAMES = st.sampled_from(["cnn", "mlp", "cn", "vote", "prepare"])


@given(
    dag=st.dictionaries(NAMES, st.lists(NAMES, max_size=3), max_size=4),
    models=st.sets(NAMES, max_size=3),
    functions=st.none() | st.sets(NAMES),
)
def test_any_dag_is_judged(dag: dict[str, list[str]], models: set[str], functions: set[str] | None) -> None:
    sections = "".join(f"  {name}: {{url: x}}\n" for name in models)
    edges = "".join(f"  {name}: [{', '.join(children)}]\n" for name, children in dag.items())
    text = f"models:\n  batch-size: 1\n{sections}dag:\n{edges or '  {}'}"
    for found in check_spec(text, "w.yaml", functions):
        assert 1 <= found.line <= text.count("\n") + 1

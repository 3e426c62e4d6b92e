"""What a handler misses is told from its text, whichever way and wherever it imports."""

import textwrap

import pytest

from wfserve.doctor.code import default_handlers, is_installed, missing_imports


def missing(directory, code, module="handler", **others):
    for name, text in {module: code, **others}.items():
        file = directory.joinpath(*name.split(".")).with_suffix(".py")
        file.parent.mkdir(exist_ok=True)
        file.write_text(textwrap.dedent(text))
    return {(each.module, each.certain) for each in missing_imports(directory, module)}


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import os, torch.nn.functional as f\nfrom json import dumps", set()),
        ("import nowhere.at.all", {("nowhere.at.all", True)}),
        ("from nowhere import x", {("nowhere", True)}),
        ("class A:\n    import nowhere", {("nowhere", True)}),
        ("def f():\n    import nowhere", {("nowhere", False)}),
        ("async def f():\n    import nowhere", {("nowhere", False)}),
        ("if x:\n    import nowhere", {("nowhere", False)}),
        ("try:\n    import nowhere\nexcept ImportError:\n    nowhere = None", {("nowhere", False)}),
        ("def f():\n    pass\nimport nowhere", {("nowhere", True)}),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import nowhere", set()),
        ("from ts.torch_handler.base_handler import BaseHandler", set()),
        ("import ts.utils.util\nfrom ts.metrics import dimension", set()),
        ("from ts.nowhere import x", {("ts.nowhere", True)}),
        ("from ts.torch_handler import image_classifier", set()),
        ("from __main__ import x", set()),
        ("import os\npattern = '\\d'", set()),
    ],
)
def test_imports_of_a_handler(tmp_path, code, found):
    assert missing(tmp_path, code) == found


def test_modules_of_the_archive_are_followed(tmp_path):
    found = missing(
        tmp_path,
        "import helper\nfrom package import part\nfrom package.other import x",
        helper="import handler, nowhere1\ndef f():\n    import lazy",
        lazy="import nowhere2",
        **{
            "package.part": "from .sibling import x\nfrom . import other",
            "package.sibling": "import nowhere3",
        },
        **{"package.other": "from .absent import x"},
    )
    assert found == {("nowhere1", True), ("nowhere2", False), ("nowhere3", True), ("package.absent", True)}


def test_a_module_of_the_archive_hides_a_package(tmp_path):
    assert missing(tmp_path, "import torch", torch="import nowhere") == {("nowhere", True)}


@pytest.mark.parametrize("code", ["def f(:", "\0", "(" * 5000, "-" * 100_000 + "1"])
def test_what_is_not_python(tmp_path, code):
    with pytest.raises((SyntaxError, ValueError)):
        missing(tmp_path, code)


def test_nothing_is_run(tmp_path):
    assert missing(tmp_path, "open('run', 'w')\nimport helper", helper="open('run', 'w')") == set()
    assert not (tmp_path / "run").exists()


def test_default_handlers():
    assert {"base_handler", "image_classifier", "text_classifier"} <= default_handlers()
    assert "__init__" not in default_handlers()


@pytest.mark.parametrize(
    ("module", "expected"),
    [("os.path", True), ("torch", True), ("nowhere", False), ("nowhere.part", False), ("__main__", True)],
)
def test_what_is_installed(module, expected):
    assert is_installed(module) is expected

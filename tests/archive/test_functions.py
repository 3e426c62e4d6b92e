"""Names are read from the syntax tree alone."""

import pytest

from wfserve.archive.functions import names_in


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def f(data, context): pass\nasync def g(): pass\nclass C: pass", {"f", "g", "C"}),
        ("import os.path\nimport a.b as c\nfrom d import e as f, g", {"os", "c", "f", "g"}),
        (
            "f = g = lambda data, context: data\n(a, [b, *c]) = 1, (2, 3)\nd: int = 3",
            {"f", "g", "a", "b", "c", "d"},
        ),
        (
            "try:\n  import x\nexcept ImportError:\n  x = None\nelse:\n  y = 1\nfinally:\n  z = 1",
            {"x", "y", "z"},
        ),
        ("if 1:\n  def f(): pass\nelif 2:\n  def g(): pass\nelse:\n  def h(): pass", {"f", "g", "h"}),
        (
            "with open('x') as f:\n  g = 1\nfor i in ():\n  j = 1\nwhile 1:\n  k = 1",
            {"f", "g", "i", "j", "k"},
        ),
        ("match 1:\n  case 1:\n    a = 1\n  case _:\n    b = 2", {"a", "b"}),
        ("def f():\n  inner = 1\n  def nested(): pass\nclass C:\n  def method(self): pass", {"f", "C"}),
        ("if (n := 3): pass", {"n"}),
    ],
)
def test_names(source: str, names: set[str]) -> None:
    found = names_in(source, "h.py")
    assert found.names == names
    assert found.complete


@pytest.mark.parametrize(
    "source",
    [
        "from x import *",
        "globals()['f'] = 1",
        "import sys\nsetattr(sys.modules[__name__], 'f', 1)",
        "exec('def f(): pass')",
        "def __getattr__(name): return print",
        "class C:\n  def handle(self, data, context): return data",
        "from ts.torch_handler.base_handler import BaseHandler\nclass C(BaseHandler): pass",
    ],
)
def test_more_names_may_exist(source: str) -> None:
    assert not names_in(source, "h.py").complete


NESTED = "f = " + "-" * 30_000 + "1"  # deeper than the parser's stack
ELSES = "if 0: a = 1\n" + "elif 0: a = 1\n" * 3_000  # deeper than the interpreter's


@pytest.mark.parametrize(
    "source", ["def f(:", "a = 1\n  b = 2", b"\xff\xfe = 1", "a\0b", "(" * 3000, NESTED, ELSES]
)
def test_no_python(source: str | bytes) -> None:
    with pytest.raises((SyntaxError, ValueError)):
        names_in(source, "h.py")

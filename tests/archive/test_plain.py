"""YAML is plain and bounded, whatever is thrown at it."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wfserve.archive import plain
from wfserve.archive.plain import YamlError

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("a: 1\nb: [1\n", 3, 1, "expected ',' or ']'"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]\n", 2, 4, "not allowed: plain data only"),
        ("a: !custom x\n", 1, 4, "not allowed: plain data only"),
        ("a: !!set {x}\n", 1, 4, "not allowed: plain data only"),
        ("a: 1\n--- \nb: 2\n", 2, 1, "expected a single document"),
        ("a: 1\nbc\x00: 2\n", 2, 3, "a character that YAML does not allow"),
        ('a: "\\ud800"\n', 1, 4, "surrogate"),
        ("a: *b\n", 1, 4, "undefined alias"),
        ("a: &a [*a]\n", 1, 4, "nested more than"),
        (BOMB, 1, 1, "aliases expanded"),
        (MERGE_BOMB, 1, 1, "aliases expanded"),
        ("[" * 100 + "]" * 100, 1, plain.MAX_DEPTH + 1, "nested more than"),
        ("[" * 5000, 1, 1, "nested too deeply"),
        ('a: "\\UFFFFFFFF"', 1, 1, "out of range"),
        ("x" * (plain.MAX_CHARACTERS + 1), 1, 1, "longer than"),
    ],
)
def test_refuses(text: str, line: int, column: int, message: str) -> None:
    with pytest.raises(YamlError, match=message.replace("[", r"\[").replace("]", r"\]")) as caught:
        plain.compose(text)
    assert (caught.value.line, caught.value.column) == (line, column)


@pytest.mark.parametrize(
    "text", ["!!bool maybe", "2024-99-99", "!!int x", "!!float x", "!!timestamp x", "{[a]: b}"]
)
def test_load_refuses_values_that_do_not_fit(text: str) -> None:
    with pytest.raises(YamlError):
        plain.load(text)


def test_loads_plain_values() -> None:
    text = "base: &base {a: 1, b: [on, 2.5, null, 'x']}\nown: {<<: *base, a: 3}\n"
    base = {"a": 1, "b": [True, 2.5, None, "x"]}
    assert plain.load(text) == {"base": base, "own": {**base, "a": 3}}


def test_nothing_is_none() -> None:
    assert plain.load("# only a comment\n") is None


@given(st.text(alphabet=st.sampled_from("ab:&*![]{}<>|-?,'\"#%@\\u0Ux1 \n\t\x00é"), max_size=60))
@example("%YAML " + "9" * 5000 + ".1\n---\na")
@example("!!int")
@example("? &a\n: *a")
def test_any_text_loads_or_has_a_fault_with_a_place(text: str) -> None:
    place = (1, 1)
    try:
        plain.load(text)
    except YamlError as error:
        place = (error.line, error.column)
    assert (1, 1) <= place <= (text.count("\n") + 2, len(text) + 1)

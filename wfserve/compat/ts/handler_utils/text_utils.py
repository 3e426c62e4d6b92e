"""Tokens and n-grams as torchtext made them, so that vocabularies built with it still fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Tokenizer = Callable[[str], list[str]]

_BASIC_ENGLISH = str.maketrans({mark: f" {mark} " for mark in "'.,()!?"} | {'"': None, ";": " ", ":": " "})


def ngrams_iterator(token_list: Sequence[str], ngrams: int) -> Iterator[str]:
    """Yield the tokens, then the pairs of neighbours joined by a space, and so on up to `ngrams` of them."""
    yield from token_list
    for length in range(2, ngrams + 1):
        for start in range(len(token_list) - length + 1):
            yield " ".join(token_list[start : start + length])


def get_tokenizer(tokenizer: str | Tokenizer | None, language: str = "en") -> Any:
    """Return what turns a line into tokens: None splits at white space, `basic_english` normalizes first.

    A callable is returned as it is. Raises `ValueError` for another name, or another language than English.
    """
    if tokenizer is None:
        return str.split
    if callable(tokenizer):
        return tokenizer
    if tokenizer != "basic_english":
        raise ValueError(f"no tokenizer is named {tokenizer}; bring a callable")
    if language != "en":
        raise ValueError(f"basic_english is for en, not {language}")
    return _basic_english


def _basic_english(line: str) -> list[str]:
    """Lower the case, make tokens of punctuation marks, drop double quotes and line breaks of HTML."""
    return line.lower().translate(_BASIC_ENGLISH).replace("<br />", " ").split()

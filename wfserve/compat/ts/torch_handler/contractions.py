"""English contractions in lower case, and what they are short for."""

from __future__ import annotations


def _with(suffix: str, word: str, stems: str) -> dict[str, str]:
    return {f"{stem}{suffix}": f"{stem} {word}" for stem in stems.split()}


CONTRACTION_MAP: dict[str, str] = {
    **_with(
        "n't", "not", "are could did does do had has have is may might must need ought should was were would"
    ),
    **_with("'d", "would", "he i it she that there they we you"),
    **_with("'d", "did", "how where"),
    **_with("'ll", "will", "he how i it she they we what who you"),
    **_with("'s", "is", "he how it she that there what when where who why"),
    **_with("'re", "are", "they we what you"),
    **_with("'ve", "have", "could i might must should so they to we what when where who why will would you"),
    "ain't": "is not",
    "can't": "cannot",
    "shan't": "shall not",
    "sha'n't": "shall not",
    "won't": "will not",
    "i'm": "i am",
    "let's": "let us",
    "so's": "so as",
    "'cause": "because",
    "ma'am": "madam",
    "o'clock": "of the clock",
    "y'all": "you all",
}

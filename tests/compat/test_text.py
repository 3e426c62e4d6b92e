"""Text handlers clean texts as the vocabularies were made, and tell what a text is about."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wfserve.child.surroundings import COMPAT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MODEL = """
    import torch
    class Bag(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.EmbeddingBag(4, 2, mode="sum")
            with torch.no_grad():
                self.embedding.weight.copy_(torch.tensor([[0.0, 0], [1, 0], [0, 1], [0, 3]]))
        def forward(self, text, offsets):
            return self.embedding(text, offsets)
"""
VOCABULARY = {"good": 1, "bad": 2, "not": 3, "good bad": 0, "not bad": 0, "not good": 0}


@pytest.fixture
def classifier(loaded: Callable[..., Any], tmp_path: Path) -> Any:
    torch.save(VOCABULARY, tmp_path / "source_vocab.pt")
    (tmp_path / "index_to_name.json").write_text('{"0": "praise", "1": "blame"}')
    return loaded("text_classifier", "TextClassifier", MODEL)


def test_a_text_is_classified(classifier: Any, context_of: Callable[..., Any]) -> None:
    (praise,) = classifier.handle([{"data": "Good!"}], context_of())
    assert praise == {"praise": pytest.approx(0.7311, abs=1e-4), "blame": pytest.approx(0.2689, abs=1e-4)}
    (blame,) = classifier.handle([{"body": bytearray(b"<p>not bad</p>")}], context_of())
    assert blame["blame"] == pytest.approx(0.982, abs=1e-3)


def test_the_steps_of_cleaning(classifier: Any) -> None:
    indices, tokens = classifier.preprocess([{"body": "<b>Nöt</b> &amp; 'GOOD'"}])
    assert tokens == ["not", "good"]
    assert indices.tolist() == [3, 1, 0]


@pytest.mark.parametrize(
    ("text", "written_out"),
    [
        ("don't, she'd say; we're sure", "do not, she would say; we are sure"),
        ("I'm SURE they've", "I am SURE they have"),
        ("won't can't shan't ain't", "will not cannot shall not is not"),
        ("Let's go, y'all: 'cause it's two o'clock", "Let us go, you all: because it is two of the clock"),
        ("Mary's house", "Marys house"),
    ],
)
def test_contractions(classifier: Any, text: str, written_out: str) -> None:
    assert classifier._expand_contractions(text) == written_out


def test_older_names_still_work(classifier: Any) -> None:
    assert classifier._remove_puncutation("a.b!") == "ab"
    assert classifier.get_word_token(["\u0120fox", "y"]) == ["fox", "y"]


def test_the_vocabulary_may_be_named_by_the_manifest_and_must_be_there(
    context_of: Callable[..., Any], classifier: Any, tmp_path: Path
) -> None:
    (tmp_path / "source_vocab.pt").rename(tmp_path / "words.bin")
    classifier.source_vocab = None
    classifier.initialize(context_of({"modelFile": "model.py", "sourceVocab": "words.bin"}))
    assert classifier.source_vocab == VOCABULARY
    with pytest.raises(FileNotFoundError, match=r"source_vocab\.pt"):
        classifier.initialize(context_of({"modelFile": "model.py"}))


def test_explanations_weigh_each_word(
    classifier: Any, context_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gradients:
        """Stands for captum's class of that name: says what it was asked."""

        def __init__(self, model: Any, layer: Any) -> None:
            assert layer is model.embedding

        def attribute(self, inputs: Any, baselines: Any, additional_forward_args: Any, target: int) -> Any:
            assert (inputs.tolist(), baselines.tolist()) == ([3, 1, 0], [0, 0, 0])
            assert additional_forward_args.tolist() == [0]
            return torch.tensor([[0.0, target], [1, 1]])

    module: Any = type(sys)("captum.attr")
    module.LayerIntegratedGradients = Gradients
    monkeypatch.setitem(sys.modules, "captum", type(sys)("captum"))
    monkeypatch.setitem(sys.modules, "captum.attr", module)
    row = {"body": "not good", "target": bytearray(b"1")}
    (answer,) = classifier.handle([row], context_of(headers={"explain": "True"}))
    assert answer["words"] == ["not", "good"]
    # softmax over each row, then divided by the norm of the rows' sums, which are 1 each
    first, second = answer["importances"]
    assert first == pytest.approx([0.2689 / 2**0.5, 0.7311 / 2**0.5], abs=1e-4)
    assert second == pytest.approx([0.5 / 2**0.5] * 2, abs=1e-4)


def text_utils() -> Any:
    import ts.handler_utils.text_utils

    return ts.handler_utils.text_utils


def test_basic_english() -> None:
    tokenize = text_utils().get_tokenizer("basic_english")
    assert tokenize('Don\'t "stop", he said<br />(now!); ok: e.g. Ä?') == (
        ["don", "'", "t", "stop", ",", "he", "said", "(", "now", "!", ")", "ok", "e", ".", "g", ".", "ä", "?"]
    )


def test_other_tokenizers() -> None:
    get_tokenizer = text_utils().get_tokenizer
    assert get_tokenizer(None)("It's  me.") == ["It's", "me."]
    assert get_tokenizer(list) is list
    with pytest.raises(ValueError, match="for en, not de"):
        get_tokenizer("basic_english", "de")
    with pytest.raises(ValueError, match="no tokenizer is named spacy"):
        get_tokenizer("spacy")


@given(st.lists(st.sampled_from("abc"), max_size=8), st.integers(1, 5))
def test_n_grams_are_all_runs_of_up_to_n_tokens(tokens: list[str], n: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(COMPAT)
        grams = list(text_utils().ngrams_iterator(tokens, n))
    assert grams[: len(tokens)] == tokens
    runs = [tokens[i:j] for i in range(len(tokens)) for j in range(i + 1, min(i + n, len(tokens)) + 1)]
    assert sorted(grams) == sorted(map(" ".join, runs))
    assert [gram.count(" ") for gram in grams] == sorted(gram.count(" ") for gram in grams)

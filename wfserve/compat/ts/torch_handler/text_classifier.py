"""Classifies one text a call, by an embedding bag over its words and pairs of words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..handler_utils.text_utils import ngrams_iterator
from ..utils.util import map_class_to_label
from .base_handler import row_value
from .text_handler import TextHandler

if TYPE_CHECKING:
    from collections.abc import Sequence


class TextClassifier(TextHandler):
    """The model's `forward(indices [T], offsets [1])` returns scores [1, classes].

    Only the first row of a batch is looked at: archives that name this handler have batch size 1.
    """

    ngrams = 2

    def preprocess(self, data: Sequence[Any]) -> tuple[torch.Tensor, list[str]]:
        """Return the indices [T] of the text's n-grams, and its tokens."""
        text = row_value(data[0])
        if not isinstance(text, str):
            text = bytes(text).decode()
        text = self._expand_contractions(self._remove_html_tags(text).lower())
        tokens = self._tokenize(self._remove_punctuation(self._remove_accented_characters(text)))
        indices = [self.source_vocab[ngram] for ngram in ngrams_iterator(tokens, self.ngrams)]
        return torch.as_tensor(indices, device=self.device), tokens

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the model on one bag, which begins at 0."""
        indices, _ = data
        return super().inference(indices, torch.zeros(1, dtype=torch.int64, device=self.device))

    def postprocess(self, data: Any) -> list[Any]:
        """Return the probability of each label."""
        return map_class_to_label(torch.softmax(data, dim=-1).tolist(), self.mapping)

    def get_insights(self, text_preprocess: Any, _: Any, target: int = 0) -> list[Any]:
        """Return the words, and how much each weighed for class `target`.

        Integrated gradients against a text of padding (index 0). Raises `PredictionException` without captum.
        """
        indices, tokens = text_preprocess
        attributions = self.lig.attribute(
            indices,
            torch.zeros_like(indices),
            additional_forward_args=torch.zeros(1, dtype=torch.int64, device=self.device),
            target=target,
        )
        importances = self.summarize_attributions(attributions).tolist()
        return [{"importances": importances, "words": self.get_word_token(tokens)}]

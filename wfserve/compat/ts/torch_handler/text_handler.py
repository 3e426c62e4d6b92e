"""A text handler has a model, the vocabulary it was trained with, and steps that clean a text for it."""

from __future__ import annotations

import functools
import os
import re
import string
import unicodedata
from typing import TYPE_CHECKING, Any

import torch

from ..handler_utils.text_utils import get_tokenizer
from ..utils.util import CLEANUP_REGEX, captum_attr
from .base_handler import BaseHandler
from .contractions import CONTRACTION_MAP

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..context import Context

_CONTRACTIONS = re.compile("|".join(map(re.escape, CONTRACTION_MAP)), re.IGNORECASE)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class TextHandler(BaseHandler):
    """Base of the handlers of texts; subclasses clean, number and answer."""

    def __init__(self) -> None:
        super().__init__()
        self.source_vocab: Any = None
        self.tokenizer = get_tokenizer("basic_english")
        self.input_text: Any = None

    def initialize(self, context: Context) -> None:
        """Load the model, and the vocabulary: a map of token to index, pickled by `torch.save`.

        Raises `FileNotFoundError` if there is no vocabulary, else what `BaseHandler.initialize` raises.
        """
        super().initialize(context)
        self.initialized = False
        # A vocabulary is an object of torchtext's, or the archive's own; the archive's code runs here anyway.
        self.source_vocab = torch.load(self.get_source_vocab_path(context), weights_only=False)
        self.initialized = True

    def get_source_vocab_path(self, ctx: Context) -> str:
        """Return where the vocabulary is: the file that older manifests name, or `source_vocab.pt`."""
        name = (ctx.manifest or {}).get("model", {}).get("sourceVocab") or "source_vocab.pt"
        path = os.path.join(ctx.system_properties["model_dir"], name)
        if not os.path.isfile(path):
            raise FileNotFoundError(f"Missing the vocabulary {name}")
        return path

    @functools.cached_property
    def lig(self) -> Any:
        """Integrated gradients of the layer `embedding`. Raises `PredictionException` without captum."""
        return captum_attr().LayerIntegratedGradients(self.model, self.model.embedding)

    def _expand_contractions(self, text: str) -> str:
        """Write contractions out, and drop the apostrophes that are left."""

        def written_out(match: re.Match[str]) -> str:
            short, words = match[0], CONTRACTION_MAP[match[0].lower()]
            return words.capitalize() if short[0].isupper() else words

        return _CONTRACTIONS.sub(written_out, text).replace("'", "")

    def _remove_accented_characters(self, text: str) -> str:
        """Reduce letters to their ASCII base; drop what has none."""
        return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")

    def _remove_html_tags(self, text: str) -> str:
        return CLEANUP_REGEX.sub("", text)

    def _remove_punctuation(self, text: str) -> str:
        return text.translate(_NO_PUNCTUATION)

    def _remove_puncutation(self, text: str) -> str:
        """Do as `_remove_punctuation`; older handlers call it by this name."""
        return self._remove_punctuation(text)

    def _tokenize(self, text: str) -> list[str]:
        tokens: list[str] = self.tokenizer(text)
        return tokens

    def get_word_token(self, input_tokens: Iterable[str]) -> list[str]:
        """Return the tokens without the mark that byte-pair encodings put for a space."""
        return [token.replace("\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}", "") for token in input_tokens]

    def summarize_attributions(self, attributions: torch.Tensor) -> torch.Tensor:
        """Return attributions [T, D], softmax over D, scaled by the norm of their sums over D."""
        attributions = torch.softmax(attributions, dim=-1)
        return attributions.div(attributions.sum(dim=-1).norm())

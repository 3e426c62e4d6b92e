"""Envelopes: a protocol's requests become a handler's rows, and its results that protocol's responses."""

"""Metrics a handler records; each batch has a store of its own."""

"""Handlers an archive may name instead of bringing its own, and their base classes."""

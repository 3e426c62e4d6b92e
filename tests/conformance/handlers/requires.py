"""A handler that tells whether what it requires was installed."""

import importlib.util


def handle(data, context):
    return None if data is None else [str(importlib.util.find_spec("wheelhouse_x") is not None) for _ in data]

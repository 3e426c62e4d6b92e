"""Handlers that cannot be loaded."""


def raises(data, context):
    raise ValueError("not today")


def out_of_memory(data, context):
    raise MemoryError


def runtime(data, context):
    raise RuntimeError("no weights")


def silent(data, context):
    """Fail only when there is data."""
    if data is not None:
        raise ValueError("not with data")

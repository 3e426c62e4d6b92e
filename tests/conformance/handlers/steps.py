"""The nodes of DAGs: each leaves its mark, tells what it got, or fails as it is told."""

import json
import os
import time


def _text(row):
    return bytes(row["body"]).decode()


def mark_a(data, context):
    return None if data is None else [_text(row) + "a" for row in data]


def mark_b(data, context):
    return None if data is None else [_text(row) + "b" for row in data]


def mark_c(data, context):
    return None if data is None else [_text(row) + "c" for row in data]


def tell_b(data, context):
    return None if data is None else [{"b": _text(row)} for row in data]


def tell_c(data, context):
    return None if data is None else [{"c": _text(row)} for row in data]


def tell_one(data, context):
    return None if data is None else [1 for _ in data]


def tell_two(data, context):
    return None if data is None else [[2] for _ in data]


def tell_null(data, context):
    return None if data is None else [None for _ in data]


def join(data, context):
    """What came from each parent."""
    if data is None:
        return None
    return [{name: bytes(value).decode() for name, value in row.items()} for row in data]


def fail(data, context):
    if data is not None:
        raise ValueError("secret detail")


def flaky(data, context):
    """Fail as often as the body says; attempts of one key are counted in a file."""
    if data is None:
        return None
    order = _order(data[0]["body"])
    attempts = _counted(order["key"])
    if attempts <= order["failures"]:
        raise ValueError(f"attempt {attempts}")
    return [f"{attempts} attempts"]


def slow(data, context):
    """Be late as often as the body says."""
    if data is None:
        return None
    order = _order(data[0]["body"])
    attempts = _counted(order["key"])
    if attempts <= order["naps"]:
        time.sleep(0.6)
    return [f"{attempts} attempts"]


def _order(body):
    return body if isinstance(body, dict) else json.loads(bytes(body).decode().removesuffix("a") + '"}')


def _counted(key):
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), f"count-{key}"), "a") as file:
        file.write("x")
        return file.tell()

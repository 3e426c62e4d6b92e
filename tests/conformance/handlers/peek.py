"""Functions and handlers that tell what they were given."""

import os
import sys


def shown(value):
    """The type of a value and, as JSON can say it, the value."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return [type(value).__name__, bytes(value).decode("latin-1")]
    return [type(value).__name__, value]


def peek(data, context):
    """What each row of the batch holds."""
    if data is None:
        return None
    return [{name: shown(value) for name, value in row.items()} for row in data]


def pass_on(data, context):
    """The body as it is."""
    return None if data is None else [row.get("body") for row in data]


def left(data, context):
    return None if data is None else ["L" for _ in data]


def right(data, context):
    return None if data is None else ["R" for _ in data]


def headers(data, context):
    """Every header of the request, and three ways to ask for one."""
    if data is None:
        return None
    return [
        {
            "all": dict(context.get_all_request_header(0)),
            "exact": context.get_request_header(0, "X-Mine"),
            "lower": context.get_request_header(0, "x-mine"),
            "property": context.request_processor[0].get_request_property("X-Mine"),
        }
    ]


def attributes(data, context):
    """The attributes of the context."""
    if data is None:
        return None
    properties = context.system_properties
    directory = properties["model_dir"]
    return [
        {
            "model_name": context.model_name,
            "manifest": context.manifest,
            "properties": {key: value for key, value in properties.items() if key != "model_dir"},
            "works_in_model_dir": os.path.samefile(directory, os.getcwd()),
            "imports_from_model_dir": any(
                os.path.realpath(entry) == os.path.realpath(directory) for entry in sys.path
            ),
            "files": sorted(name for name in os.listdir(directory) if name != "__pycache__"),
            "request_ids": list(context.request_ids),
            "request_id": context.get_request_id(0),
            "model_yaml_config": context.model_yaml_config,
            "stopping_criteria": context.stopping_criteria,
            "sequence_id": context.get_sequence_id(0),
        }
    ]

"""Small workflow archives, packed from text: every test says in one place what it serves."""

import textwrap
from itertools import pairwise
from pathlib import Path

from wfserve.archive.pack import ModelArchiveOptions, WorkflowArchiveOptions, pack_model, pack_workflow

FUNCTIONS = '''
import json, os, signal, subprocess, sys, time

def echo(data, context):
    return None if data is None else [row.get("body") for row in data]

def upper(data, context):
    return None if data is None else [bytes(row.get("body")).upper() for row in data]

def left(data, context):
    return None if data is None else [{"left": bytes(row.get("body")).decode()} for row in data]

def right(data, context):
    return None if data is None else [{"right": bytes(row.get("body")).decode()} for row in data]

def join(data, context):
    if data is None:
        return None
    return [{name: json.loads(bytes(value)) for name, value in sorted(row.items())} for row in data]

def obey(data, context):
    """Do what the body says: the faults a handler can have."""
    if data is None:
        return None
    word = bytes(data[0].get("body")).decode()
    if word.startswith("sleep "):
        time.sleep(float(word.split()[1]))
    elif word == "raise":
        raise ValueError("secret detail")
    elif word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "pid":
        return [str(os.getpid())]
    elif word.startswith("big "):
        return [b"x" * int(word.split()[1])]
    elif word == "none":
        return None
    return [word]
'''


def pack(store: Path, name: str, spec: str, functions: str = FUNCTIONS) -> str:
    """Pack a workflow into `store` and return its archive's name."""
    source = store / f"{name}-source"
    source.mkdir(exist_ok=True)
    (source / "spec.yaml").write_text(textwrap.dedent(spec))
    (source / "functions.py").write_text(textwrap.dedent(functions))
    options = WorkflowArchiveOptions(
        name, source / "spec.yaml", source / "functions.py", export_path=store, force=True
    )
    return pack_workflow(options).name


def pack_handler(store: Path, name: str, code: str) -> str:
    """Pack a model that is only its handler."""
    handler = store / f"{name}_handler.py"
    handler.write_text(textwrap.dedent(code))
    return pack_model(ModelArchiveOptions(name, str(handler), "1.0", export_path=store, force=True)).name


def chain(*nodes: str, settings: str = "") -> str:
    """A specification whose nodes follow one another."""
    edges = "\n".join(f"  {a}: [{b}]" for a, b in pairwise(nodes)) or f"  {nodes[0]}: []"
    return (
        f"models:\n  retry-attempts: 1\n{textwrap.indent(textwrap.dedent(settings), '  ')}\ndag:\n{edges}\n"
    )

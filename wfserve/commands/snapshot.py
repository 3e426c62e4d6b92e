"""A snapshot moves a whole registry, archives included, from one state directory to another."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from wfserve.commands.group import FILE, table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from wfserve.state.records import Workflow

STATE_DIR = ".wfserve"
_STATE = click.option(
    "--state-dir", type=FILE, default=STATE_DIR, show_default=True, help="The server's state directory."
)


@click.group()
def snapshot() -> None:
    """Write a registry to one file, take it in elsewhere, and compare."""


@snapshot.command("export")
@click.argument("file", type=FILE)
@_STATE
def export(file: Path, state_dir: Path) -> None:
    """Write every workflow, with its versions, settings and archives, to FILE; a server may be running."""
    from wfserve.state.snapshot import export_snapshot

    click.echo(f"{_counted(export_snapshot(state_dir, file))} in {file}")


@snapshot.command("import")
@click.argument("file", type=FILE)
@click.option("--replace", is_flag=True, help="Remove every workflow that FILE has not, or has otherwise.")
@_STATE
def import_(file: Path, state_dir: Path, *, replace: bool) -> None:
    """Take the workflows in FILE into a registry whose server does not run; its next start serves them."""
    from contextlib import closing

    from wfserve.state.durable import open_state
    from wfserve.state.lock import exclusive
    from wfserve.state.snapshot import import_snapshot
    from wfserve.state.store import Author

    with exclusive(state_dir):
        state, problems = open_state(state_dir)
        with closing(state):
            for problem in problems:
                click.echo(problem.message, err=True)
            taken = import_snapshot(state, file.absolute(), Author("snapshot import"), replace=replace)
            state.collect()
    click.echo(f"{_counted(taken)} from {file}")


@snapshot.command()
@click.argument("before", type=FILE)
@click.argument("after", type=FILE, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
@_STATE
def diff(before: Path, after: Path | None, state_dir: Path, *, as_json: bool) -> None:
    """Show where the registry in the file AFTER, by default that of the state directory, differs from BEFORE.

    Exits with 1 if it does.
    """
    from wfserve.state.snapshot import diff as compare
    from wfserve.state.snapshot import read_registry, read_snapshot

    now = read_registry(state_dir) if after is None else read_snapshot(after.absolute())
    found = compare(read_snapshot(before.absolute()), now)
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=2))
    elif found:
        rows = ((" ".join(each.path), _short(each.before), _short(each.after)) for each in found)
        table(("WHERE", "BEFORE", "AFTER"), rows)
    raise SystemExit(1 if found else 0)


def _short(value: Any) -> str:
    text = "" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _counted(workflows: Mapping[str, Workflow]) -> str:
    versions = sum(len(each.versions) for each in workflows.values())
    return f"{len(workflows)} workflows, {versions} versions"

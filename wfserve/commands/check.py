"""`wfserve check` and `wfserve doctor` look at files, say what is wrong with them, and change nothing."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from wfserve.commands.group import FILE, USAGE, table

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.argument("file", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of findings.")
def check(file: Path, *, as_json: bool) -> None:
    """Check a workflow specification or archive, and say where each mistake is.

    FILE is a .yaml, .war or .mar file or a directory. Exit code 0 if it would be accepted, 2 if not.
    """
    from wfserve.dag.check import check_file

    findings = check_file(file)
    errors = [finding for finding in findings if finding.severity == "error"]
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            click.echo(str(finding), err=True)
        if not errors:
            click.echo(f"{click.format_filename(file)}: ok")
    raise SystemExit(USAGE if errors else 0)


@click.command()
@click.argument("config", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print all findings as JSON.")
def doctor(config: Path, *, as_json: bool) -> None:
    """Say what of a TorchServe installation will run, and what to look at.

    CONFIG is its config.properties. The stores, archives, addresses and files that it names are examined;
    nothing is run, written or downloaded. Exit code 0 if all of it would run, 2 if something would not.
    """
    from wfserve.doctor import examine

    findings = examine(config, os.environ)
    runs = all(finding.severity != "error" for finding in findings)
    if as_json:
        report = {"config": str(config), "runs": runs, "findings": [asdict(finding) for finding in findings]}
        click.echo(json.dumps(report, indent=2))
    else:
        rows = ((each.severity, each.area, each.subject, each.message) for each in findings)
        table(("", "WHAT", "NAME", "FINDING"), rows)
    raise SystemExit(0 if runs else USAGE)

"""The command line. A wrong flag or input is one line and exit code 2; what a server refuses is exit code 1.

Heavy imports stay inside the commands, so that `wfserve --help` answers at once.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from wfserve import __version__
from wfserve.client import RefusedError
from wfserve.errors import WfserveError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from wfserve.config import Config

USAGE = 2
REFUSED = 1
_GRACE = 10.0  # seconds for a server to end, once it has answered what it had accepted
_FILE = click.Path(path_type=Path)


class _Commands(click.Group):
    """A group whose commands end with one line for every error that is the user's to mend."""

    def make_context(self, *arguments: Any, **more: Any) -> click.Context:
        with _one_line():
            return super().make_context(*arguments, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with _one_line():
            return super().invoke(ctx)


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "wfserve"
        _end(f"{error.format_message()} (try: {command} --help)", USAGE)
    except RefusedError as error:
        _end(error.message, REFUSED)
    except WfserveError as error:
        _end(error.message, USAGE)
    except OSError as error:
        if error.errno == errno.EPIPE:  # whoever read the output has enough; click ends quietly
            raise
        _end(f"{error.filename}: {error.strerror}" if error.filename else str(error), USAGE)


def _end(message: str, code: int) -> NoReturn:
    click.echo(f"wfserve: {message}", err=True)
    raise SystemExit(code)


_HELP = """Serve TorchServe workflow archives: DAGs of PyTorch models and Python functions.

\b
wfserve serve --workflow-store store --workflows digits.war
curl -T digit.png http://127.0.0.1:8080/wfpredict/digits

Exit codes: 0 done, 1 the server refused or cannot be reached, 2 wrong usage or input.
"""


@click.group(
    cls=_Commands,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
)
@click.version_option(__version__, "-v", "--version", prog_name="wfserve")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Run a command, or show what there is."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


class _Serve(click.Command):
    """A command whose `--models` takes several values, as torchserve's does."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _joined(args, "--models"))


def _joined(args: list[str], option: str) -> list[str]:
    """Join the values that follow `option` by commas, which makes them one."""
    found: list[str] = []
    for argument in args:
        if found[-2:-1] == [option] and not (argument.startswith("-") or found[-1].startswith("-")):
            found[-1] += f",{argument}"
        else:
            found.append(argument)
    return found


_accepted = partial(click.option, hidden=True)  # of torchserve, for its scripts' sake


@main.command(cls=_Serve)
@click.option("--start/--stop", default=True, help="Start a server, or stop the one of this state directory.")
@click.option(
    "--ts-config", type=_FILE, help="Properties file; default $TS_CONFIG_FILE or ./config.properties."
)
@click.option("--workflow-store", type=_FILE, help="Directory of .war files; default ./workflow_store.")
@click.option("--model-store", type=_FILE, help="Directory of .mar files; default: the workflow store.")
@click.option(
    "--workflows",
    "load_workflows",
    metavar="A.war,B.war",
    help="Archives to register at start; NAME=A.war renames one.",
)
@click.option(
    "--state-dir", type=_FILE, help="Where the server keeps its lock and state; default ./.wfserve."
)
@click.option(
    "--disable-token-auth",
    "--dt",
    "disable_token_authorization",
    flag_value="true",
    help="Ask no client for a token; beyond loopback only with --insecure-management.",
)
@click.option(
    "--insecure-management",
    flag_value="true",
    help="Serve without tokens beyond loopback: whoever reaches the management API may run code here.",
)
@click.option(
    "--try", "example", metavar="WORKFLOW=FILE", help="Print a curl line for FILE once WORKFLOW is ready."
)
@_accepted("--foreground", is_flag=True, expose_value=False)
@_accepted("--no-config-snapshots", "--ncs", is_flag=True, expose_value=False)
@_accepted("--enable-model-api", flag_value="true")
@_accepted("--models", "load_models")
@_accepted("--log-config")
@_accepted("--cpp-log-config")
@_accepted("--plugins-path", "--ppath", "plugins_path")
def serve(ts_config: Path | None, example: str | None, *, start: bool, **flags: Any) -> None:
    """Start the server and stay in the foreground.

    It stops on Ctrl-C or SIGTERM once the requests that it has accepted are answered; a second signal
    stops it at once. All options of torchserve are understood; those that mean nothing here are named in
    the log.
    """
    from wfserve.config import load

    example_call = _example(example)
    config = load(ts_config, {key: str(value) for key, value in flags.items() if value is not None})
    if not start:
        _stop(config)
        return
    from wfserve.launch import serve_forever

    raise SystemExit(serve_forever(config, example=example_call))


def _stop(config: Config) -> None:
    from wfserve.state.holder import stop_holder

    try:
        pid = stop_holder(config.state_dir, config.stop_timeout + _GRACE)
    except TimeoutError as error:
        _end(f"{error}; one that hypercorn started stops with hypercorn", REFUSED)
    click.echo("wfserve is not running." if pid is None else f"wfserve has stopped (process {pid}).")


def _example(text: str | None) -> tuple[str, Path] | None:
    if text is None:
        return None
    name, given, file = text.partition("=")
    if not given or not Path(file).is_file():
        raise click.BadParameter(f"{text!r} is not WORKFLOW=FILE with a file that exists", param_hint="--try")
    return name, Path(file).absolute()


@main.command()
@click.argument("file", type=_FILE)
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


@main.command()
@click.argument("config", type=_FILE)
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
        _table(("", "WHAT", "NAME", "FINDING"), rows)
    raise SystemExit(0 if runs else USAGE)


_SERVER = click.option(
    "--server", default="http://127.0.0.1:8081", show_default=True, help="The server's management address."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the server's JSON.")


@main.command()
@click.argument("url")
@click.option("--name", help="Register under this name instead of the archive's.")
@_SERVER
@_JSON
def register(url: str, name: str | None, server: str, *, as_json: bool) -> None:
    """Register the workflow archive URL: a file of the server's store, or an http(s) address."""
    from wfserve.client import Client

    parameters = {"url": url} | ({"workflow_name": name} if name else {})
    if not as_json and sys.stderr.isatty():
        click.echo(f"registering {url}: models are being loaded …", err=True)
    _show(Client(server).status("POST", "/workflows", parameters), as_json=as_json)


@main.command("list")
@_SERVER
@_JSON
def list_(server: str, *, as_json: bool) -> None:
    """List the registered workflows."""
    from wfserve.client import Client

    workflows = Client(server).workflows()
    if as_json:
        click.echo(json.dumps({"workflows": workflows}, indent=2))
    else:
        _table(("NAME", "ARCHIVE"), ((w["workflowName"], w["workflowUrl"]) for w in workflows))


@main.command()
@click.argument("name")
@_SERVER
@_JSON
def describe(name: str, server: str, *, as_json: bool) -> None:
    """Show the settings and the DAG of workflow NAME."""
    from wfserve.client import Client

    found = Client(server).workflow(name)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _table(("SETTING", "VALUE"), ((key, str(value)) for key, value in found[0].items()))


@main.command()
@click.argument("name")
@_SERVER
@_JSON
def unregister(name: str, server: str, *, as_json: bool) -> None:
    """Stop serving workflow NAME; requests under way are answered first."""
    from wfserve.client import Client, path_of

    _show(Client(server).status("DELETE", path_of("workflows", name)), as_json=as_json)


@main.command()
@click.argument("name")
@click.argument("file", type=_FILE, required=False)
@click.option("--data", help="The request body as text, instead of FILE.")
@click.option("--content-type", default="application/octet-stream", show_default=True)
@click.option("--timeout", default=120.0, show_default=True, help="Seconds to wait for the answer.")
@click.option(
    "--server", default="http://127.0.0.1:8080", show_default=True, help="The server's inference address."
)
def predict(
    name: str, file: Path | None, data: str | None, content_type: str, timeout: float, server: str
) -> None:
    """Send FILE (- for standard input) to workflow NAME and print the answer as it is."""
    from wfserve.client import Client, path_of

    body = _body(file, data)
    answer = Client(server, timeout).send("POST", path_of("wfpredict", name), body, content_type)
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()
    if sys.stdout.isatty() and not answer.endswith(b"\n"):
        click.echo()


def _body(file: Path | None, data: str | None) -> bytes:
    if (file is None) == (data is None):
        raise click.UsageError("give either FILE or --data")
    if data is not None:
        return data.encode(errors="surrogateescape")  # the bytes that were typed
    assert file is not None
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        _end(f"cannot read {file}: {error.strerror}", USAGE)


def _show(answer: Any, *, as_json: bool) -> None:
    click.echo(json.dumps(answer, indent=2) if as_json else answer["status"])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


@main.group(no_args_is_help=False)
def archive() -> None:
    """Pack models and workflows into archives, as TorchServe's archivers do."""


@archive.command()
@click.option("--model-name", required=True, help="Name of the model and of the archive.")
@click.option("--handler", required=True, help="Handler file, or the name of a default handler.")
@click.option("-v", "--version", required=True, help="Version of the model.")
@click.option(
    "--serialized-file", type=_FILE, help="Weights (.pt, .pth) or a TorchScript, ONNX or exported program."
)
@click.option("--model-file", type=_FILE, help="Python file with the one model class, for eager models.")
@click.option("--extra-files", default="", help="Comma separated files, globs and directories to add.")
@click.option("--runtime", default="python", show_default=True)
@click.option("--export-path", type=_FILE, default=Path(), help="Where to write; default: here.")
@click.option(
    "--archive-format",
    type=click.Choice(["default", "zip-store", "tgz", "no-archive"]),
    default="default",
    show_default=True,
)
@click.option("-f", "--force", is_flag=True, help="Overwrite an archive of that name.")
@click.option("-r", "--requirements-file", type=_FILE, help="requirements.txt of the model.")
@click.option("-c", "--config-file", type=_FILE, help="model-config.yaml of the model.")
def model(**options: Any) -> None:
    """Pack a model into a .mar; the flags are torch-model-archiver's."""
    from wfserve.archive.pack import ModelArchiveOptions, PackError, pack_model

    _pack(pack_model, ModelArchiveOptions, PackError, options)


@archive.command()
@click.option("--workflow-name", required=True, help="Name of the workflow and of the archive.")
@click.option("--spec-file", type=_FILE, required=True, help="The specification, YAML.")
@click.option("--handler", type=_FILE, help="Python file with the functions of the DAG, if it has any.")
@click.option("--extra-files", default="", help="Comma separated files to add.")
@click.option("--export-path", type=_FILE, default=Path(), help="Where to write; default: here.")
@click.option("-f", "--force", is_flag=True, help="Overwrite an archive of that name.")
def workflow(**options: Any) -> None:
    """Pack a workflow into a .war; the flags are torch-workflow-archiver's."""
    from wfserve.archive.pack import PackError, WorkflowArchiveOptions, pack_workflow

    _pack(pack_workflow, WorkflowArchiveOptions, PackError, options)


def _pack(pack: Any, kind: Any, failure: type[WfserveError], options: dict[str, Any]) -> None:
    """Pack, and exit with 1 on failure as the archivers of TorchServe do."""
    options["extra_files"] = tuple(filter(None, [options["extra_files"]]))
    try:
        click.echo(pack(kind(**options)))
    except failure as error:
        _end(error.message, REFUSED)

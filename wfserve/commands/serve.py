"""`wfserve serve` takes every flag of torchserve; those that are given are the strongest settings."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wfserve.commands.group import FILE, REFUSED, end

if TYPE_CHECKING:
    from wfserve.config import Config

_GRACE = 10.0  # seconds for a server to end, once it has answered what it had accepted


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


@click.command(cls=_Serve)
@click.option("--start/--stop", default=True, help="Start a server, or stop the one of this state directory.")
@click.option(
    "--ts-config", type=FILE, help="Properties file; default $TS_CONFIG_FILE or ./config.properties."
)
@click.option("--workflow-store", type=FILE, help="Directory of .war files; default ./workflow_store.")
@click.option("--model-store", type=FILE, help="Directory of .mar files; default: the workflow store.")
@click.option(
    "--workflows",
    "load_workflows",
    metavar="A.war,B.war",
    help="Archives to register at start; NAME=A.war renames one.",
)
@click.option("--state-dir", type=FILE, help="Where the server keeps what is registered; default ./.wfserve.")
@click.option("--snapshot", type=FILE, help="A snapshot of TorchServe, whose models are to be served.")
@click.option("--start-empty", flag_value="true", help="Forget every workflow that was registered before.")
@click.option("--processes", metavar="N", help="Front ends that share the inference port; default 1.")
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
        end(f"{error}; one that hypercorn started stops with hypercorn", REFUSED)
    click.echo("wfserve is not running." if pid is None else f"wfserve has stopped (process {pid}).")


def _example(text: str | None) -> tuple[str, Path] | None:
    if text is None:
        return None
    name, given, file = text.partition("=")
    if not given or not Path(file).is_file():
        raise click.BadParameter(f"{text!r} is not WORKFLOW=FILE with a file that exists", param_hint="--try")
    return name, Path(file).absolute()

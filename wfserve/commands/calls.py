"""The commands that call a server: each is told which, and shows the token of the API that it calls."""

from __future__ import annotations

import functools
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from wfserve.client import PATIENCE, Access, Client, key_in, path_of
from wfserve.commands.group import FILE, USAGE, end, table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Command = Callable[..., None]

TOKEN = "WFSERVE_TOKEN"
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the server's JSON.")


def _calling(api: str, address: str) -> Callable[[Command], Command]:
    """Give a command the options that say which server it calls and how; it gets a `client` for them."""
    options = (
        click.option("--server", default=address, show_default=True, help=f"The server's {api} address."),
        click.option("--token", help=f"Key of the {api} API; default ${TOKEN}, which nobody else can read."),
        click.option("--key-file", type=FILE, help="The server's key_file.json, to take the key from."),
        click.option("--cacert", type=FILE, help="Certificates, PEM, that an https server's may rest on."),
        click.option("--insecure", is_flag=True, help="Believe any certificate."),
    )

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def call(server: str, cacert: Path | None, *, insecure: bool, **given: Any) -> None:
            token = _token(api, given.pop("token"), given.pop("key_file"))
            timeout = given.pop("timeout", PATIENCE)
            command(client=Client(server, timeout, Access(token, cacert, insecure)), **given)

        return functools.reduce(lambda decorated, option: option(decorated), reversed(options), call)

    return decorate


def _token(api: str, token: str | None, key_file: Path | None) -> str:
    if token is not None and key_file is not None:
        raise click.UsageError("give either --token or --key-file")
    if key_file is not None:
        return key_in(key_file, api)
    return os.environ.get(TOKEN, "") if token is None else token


_managing = _calling("management", "http://127.0.0.1:8081")
_inferring = _calling("inference", "http://127.0.0.1:8080")


@click.command()
@click.argument("url")
@click.option("--name", help="Register under this name instead of the archive's.")
@click.option("--version", help="Register as this version instead of the archive's: digits and dots.")
@click.option("--default", is_flag=True, help="Make it the default version; the first is.")
@click.option("--replace", is_flag=True, help="Make it the default version and unregister the one before.")
@click.option("--sha256", help="Digest that the archive must have, 64 hexadecimal digits.")
@_managing
@_JSON
def register(url: str, name: str | None, client: Client, *, as_json: bool, **more: Any) -> None:
    """Register the workflow archive URL: a file of the server's store, or an http(s) address."""
    flags = {flag: "true" if more.pop(flag) else None for flag in ("default", "replace")}
    given = {"url": url, "workflow_name": name, **more, **flags}
    parameters = {key: value for key, value in given.items() if value}
    if not as_json and sys.stderr.isatty():
        click.echo(f"registering {url}: models are being loaded …", err=True)
    _show(client.status("POST", "/workflows", parameters), as_json=as_json)


@click.command("list")
@_managing
@_JSON
def list_(client: Client, *, as_json: bool) -> None:
    """List the registered workflows."""
    workflows = client.workflows()
    if as_json:
        click.echo(json.dumps({"workflows": workflows}, indent=2))
    else:
        table(("NAME", "ARCHIVE"), ((w["workflowName"], w["workflowUrl"]) for w in workflows))


@click.command()
@click.argument("name")
@click.argument("version", required=False)
@_managing
@_JSON
def describe(name: str, version: str | None, client: Client, *, as_json: bool) -> None:
    """Show the settings and the DAG of workflow NAME: of a VERSION, of all, or of the default."""
    found = client.workflow(name, version)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        for each in found:
            table(("SETTING", "VALUE"), ((key, str(value)) for key, value in each.items()))


@click.command()
@click.argument("name")
@click.argument("version", required=False)
@_managing
@_JSON
def unregister(name: str, version: str | None, client: Client, *, as_json: bool) -> None:
    """Stop serving workflow NAME, or a VERSION of it; requests under way are answered first."""
    path = path_of("workflows", name, *([] if version is None else [version]))
    _show(client.status("DELETE", path), as_json=as_json)


@click.command("set-default")
@click.argument("name")
@click.argument("version")
@_managing
@_JSON
def set_default(name: str, version: str, client: Client, *, as_json: bool) -> None:
    """Have VERSION answer the requests to workflow NAME that name none."""
    _show(client.status("PUT", path_of("workflows", name, version, "set-default")), as_json=as_json)


@click.command()
@click.argument("name")
@_managing
@_JSON
def rollback(name: str, client: Client, *, as_json: bool) -> None:
    """Have the version answer again that was the default of workflow NAME before."""
    _show(client.status("PUT", path_of("workflows", name, "rollback")), as_json=as_json)


@click.command()
@click.argument("name")
@click.argument("file", type=FILE, required=False)
@click.option("--data", help="The body of the request as text, instead of FILE.")
@click.option("--content-type", default="application/octet-stream", show_default=True)
@click.option("--record", is_flag=True, help="Keep the next request that the default version answers.")
@click.option("--remove", is_flag=True, help="Forget the sample.")
@_managing
@_JSON
def sample(
    name: str,
    file: Path | None,
    data: str | None,
    content_type: str,
    client: Client,
    *,
    as_json: bool,
    **asked: bool,
) -> None:
    """Have new versions of workflow NAME answer FILE (- for standard input); or tell of that."""
    path = path_of("workflows", name, "sample")
    if sum((file is not None, data is not None, *asked.values())) > 1:
        raise click.UsageError("give one of FILE, --data, --record and --remove")
    if asked["remove"]:
        _show(client.status("DELETE", path), as_json=as_json)
    elif asked["record"]:
        _show(client.status("PUT", path, {"record": "true"}), as_json=as_json)
    elif file is not None or data is not None:
        _show(client.status("PUT", path, body=_body(file, data), content_type=content_type), as_json=as_json)
    else:
        _describe_sample(client.sample(name), as_json=as_json)


def _describe_sample(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    kept = found["sample"] or {}
    rows = [("recording", str(found["recording"]).lower())]
    rows += [(key, str(kept[key])) for key in ("bytes", "sha256") if key in kept]
    rows += [(header, str(value)) for header, value in kept.get("headers", {}).items()]
    table(("SAMPLE", "VALUE"), rows)


@click.command()
@click.argument("name", required=False)
@click.option("--limit", default=20, show_default=True, help="How many changes at most, the newest first.")
@_managing
@_JSON
def history(name: str | None, limit: int, client: Client, *, as_json: bool) -> None:
    """Show who changed what, of workflow NAME or of all, and what was refused."""
    changes = client.history(limit, name)
    if as_json:
        click.echo(json.dumps(changes, indent=2))
        return
    columns = ("at", "who", "address", "what", "workflow", "outcome")
    rows = ([*(change[key] or "" for key in columns), _listed(change["arguments"])] for change in changes)
    shown = ([_printable(str(cell)) for cell in row] for row in rows)
    table(("AT", "WHO", "ADDRESS", "WHAT", "WORKFLOW", "OUTCOME", "ARGUMENTS"), shown)


def _listed(arguments: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in arguments.items() if value not in (None, False))


def _printable(text: str) -> str:
    """Return `text` without what a terminal would obey: clients choose what is refused and logged."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


@click.command()
@click.argument("name")
@click.argument("file", type=FILE, required=False)
@click.option("--data", help="The request body as text, instead of FILE.")
@click.option("--content-type", default="application/octet-stream", show_default=True)
@click.option("--timeout", default=120.0, show_default=True, help="Seconds to wait for the answer.")
@_inferring
def predict(name: str, file: Path | None, data: str | None, content_type: str, client: Client) -> None:
    """Send FILE (- for standard input) to workflow NAME and print the answer as it is."""
    body = _body(file, data)
    answer = client.send("POST", path_of("wfpredict", name), body, content_type)
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()
    if sys.stdout.isatty() and not answer.endswith(b"\n"):
        click.echo()


@click.command()
@_inferring
@_JSON
def ping(client: Client, *, as_json: bool) -> None:
    """Say whether all that is registered is served; else exit with 1. The metrics address wants no token."""
    _show(client.status("GET", "/ping"), as_json=as_json)


def _body(file: Path | None, data: str | None) -> bytes:
    if (file is None) == (data is None):
        raise click.UsageError("give either FILE or --data")
    if data is not None:
        return data.encode(errors="surrogateescape")  # the bytes that were typed
    assert file is not None
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        end(f"cannot read {file}: {error.strerror}", USAGE)


def _show(answer: Any, *, as_json: bool) -> None:
    click.echo(json.dumps(answer, indent=2) if as_json else answer["status"])


COMMANDS = (register, list_, describe, unregister, set_default, rollback, sample, history, predict, ping)

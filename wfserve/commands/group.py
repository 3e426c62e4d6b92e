"""What every command has: how it ends, with one line and the right exit code, and how it prints tables."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from wfserve.client import RefusedError
from wfserve.errors import WfserveError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

USAGE = 2
REFUSED = 1
FILE = click.Path(path_type=Path)


class Commands(click.Group):
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
        end(f"{error.format_message()} (try: {command} --help)", USAGE)
    except RefusedError as error:
        end(error.message, REFUSED)
    except WfserveError as error:
        end(error.message, USAGE)
    except OSError as error:
        if error.errno == errno.EPIPE:  # whoever read the output has enough; click ends quietly
            raise
        end(f"{error.filename}: {error.strerror}" if error.filename else str(error), USAGE)


def end(message: str, code: int) -> NoReturn:
    """Say why a command ends, and end it."""
    click.echo(f"wfserve: {message}", err=True)
    raise SystemExit(code)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below their heads, in columns."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())

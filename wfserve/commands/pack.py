"""`wfserve archive` takes the flags of TorchServe's archivers, and ends as they do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wfserve.commands.group import FILE, REFUSED, end

if TYPE_CHECKING:
    from wfserve.errors import WfserveError


class ArchiverCommand(click.Command):
    """A command whose long flags may be cut short where one flag is meant, as argparse has it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        return super().parse_args(ctx, [*(self._expanded(ctx, each) for each in args[:end]), *args[end:]])

    def _expanded(self, ctx: click.Context, argument: str) -> str:
        """Return `argument` with its flag in full. No value starts with `--`: argparse refuses those."""
        flag, equals, value = argument.partition("=")
        flags = [each for parameter in self.get_params(ctx) for each in parameter.opts]
        meant = [each for each in flags if each.startswith(flag)]
        if not flag.startswith("--") or flag in flags or not meant:
            return argument
        if len(meant) > 1:
            raise click.UsageError(f"Ambiguous option {flag}: it could be {', '.join(meant)}.", ctx)
        return f"{meant[0]}{equals}{value}"


@click.group(no_args_is_help=False)
def archive() -> None:
    """Pack models and workflows into archives, as TorchServe's archivers do."""


@archive.command(cls=ArchiverCommand)
@click.option("--model-name", required=True, help="Name of the model and of the archive.")
@click.option("--handler", required=True, help="Handler file, or the name of a default handler.")
@click.option("-v", "--version", required=True, help="Version of the model.")
@click.option(
    "--serialized-file", type=FILE, help="Weights (.pt, .pth) or a TorchScript, ONNX or exported program."
)
@click.option("--model-file", type=FILE, help="Python file with the one model class, for eager models.")
@click.option("--extra-files", default="", help="Comma separated files, globs and directories to add.")
@click.option(
    "--runtime", type=click.Choice(["python", "python3", "LSP"]), default="python", show_default=True
)
@click.option("--export-path", type=FILE, default=Path(), help="Where to write; default: here.")
@click.option(
    "--archive-format",
    type=click.Choice(["default", "zip-store", "tgz", "no-archive"]),
    default="default",
    show_default=True,
)
@click.option("-f", "--force", is_flag=True, help="Overwrite an archive of that name.")
@click.option("-r", "--requirements-file", type=FILE, help="requirements.txt of the model.")
@click.option("-c", "--config-file", type=FILE, help="model-config.yaml of the model.")
def model(**options: Any) -> None:
    """Pack a model into a .mar; the flags are torch-model-archiver's."""
    from wfserve.archive.pack import ModelArchiveOptions, PackError, pack_model

    _pack(pack_model, ModelArchiveOptions, PackError, options)


@archive.command(cls=ArchiverCommand)
@click.option("--workflow-name", required=True, help="Name of the workflow and of the archive.")
@click.option("--spec-file", type=FILE, required=True, help="The specification, YAML.")
@click.option("--handler", type=FILE, help="Python file with the functions of the DAG, if it has any.")
@click.option("--extra-files", default="", help="Comma separated files to add.")
@click.option("--export-path", type=FILE, default=Path(), help="Where to write; default: here.")
@click.option("-f", "--force", is_flag=True, help="Overwrite an archive of that name.")
@click.option("--version", help="Version of the workflow: digits and dots.")
@click.option(
    "--input",
    "inputs",
    type=FILE,
    multiple=True,
    help="A request's body, which the workflow has to answer before it is served; may be repeated.",
)
def workflow(**options: Any) -> None:
    """Pack a workflow into a .war; the flags are torch-workflow-archiver's, and two more."""
    from wfserve.archive.pack import PackError, WorkflowArchiveOptions, pack_workflow

    _pack(pack_workflow, WorkflowArchiveOptions, PackError, options)


def _pack(pack: Any, kind: Any, failure: type[WfserveError], options: dict[str, Any]) -> None:
    """Pack, and exit with 1 on failure as the archivers of TorchServe do."""
    options["extra_files"] = tuple(filter(None, [options["extra_files"]]))
    try:
        click.echo(pack(kind(**options)))
    except failure as error:
        end(error.message, REFUSED)

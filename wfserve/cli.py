"""The command line. A wrong flag or input is one line and exit code 2; what a server refuses is exit code 1.

Heavy imports stay inside the commands, so that `wfserve --help` answers at once.
"""

from __future__ import annotations

import click

from wfserve import __version__
from wfserve.commands import calls, check, pack, plan, serve, snapshot
from wfserve.commands.group import Commands

_HELP = """Serve TorchServe workflow archives: DAGs of PyTorch models and Python functions.

\b
wfserve serve --workflow-store store --workflows digits.war
curl -T digit.png http://127.0.0.1:8080/wfpredict/digits

Exit codes: 0 done, 1 the server refused or cannot be reached, 2 wrong usage or input.
"""


@click.group(
    cls=Commands,
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


_OFFLINE = (check.check, check.doctor, plan.plan, pack.archive, snapshot.snapshot)
for command in (serve.serve, *_OFFLINE, *calls.COMMANDS):
    main.add_command(command)

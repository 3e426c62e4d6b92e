"""`wfserve plan` reads a workflow and shows its stages; nothing of it is run."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wfserve.commands.group import FILE

if TYPE_CHECKING:
    from wfserve.archive.spec import WorkflowSpec
    from wfserve.dag.plan import NodeFacts


@click.command()
@click.argument("file", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print stages and edges as JSON.")
def plan(file: Path, *, as_json: bool) -> None:
    """Show which nodes of workflow archive FILE would share workers, and why the others would not.

    FILE is a .war, a .yaml or a directory. What only the archives of its models say is not looked at: their
    numbers of workers, and packages of their own.
    """
    from wfserve.dag.graph import Graph
    from wfserve.dag.plan import plan as planned

    spec = _spec_of(file)
    graph = Graph.from_edges(spec.dag)
    made = planned(graph, {node: _facts_of(spec, node) for node in graph.nodes})
    if as_json:
        edges = [edge._asdict() for edge in made.edges]
        report = {"stages": made.stages, "edges": edges, "hops_saved": made.hops_saved}
        click.echo(json.dumps(report, indent=2))
        return
    for number, stage in enumerate(made.stages, 1):
        click.echo(f"stage {number}: {' → '.join(stage)}")
    for edge in made.edges:
        shown = "together" if edge.fused else "apart"
        click.echo(f"  {edge.parent} → {edge.child}: {shown}, {edge.reason}")
    click.echo(f"{made.hops_saved} of {len(made.edges)} hops saved")


def _spec_of(file: Path) -> WorkflowSpec:
    """Return the specification of a workflow. Raises the `WfserveError` that registering it would meet."""
    from wfserve.archive.extract import container_of
    from wfserve.archive.spec import decode_spec, parse_spec
    from wfserve.archive.war import open_workflow

    if container_of(file) is None:
        return parse_spec(decode_spec(file.read_bytes(), str(file)), str(file))
    with tempfile.TemporaryDirectory(prefix="wfserve-plan-") as scratch:
        return open_workflow(file, Path(scratch, "archive")).spec


def _facts_of(spec: WorkflowSpec, node: str) -> NodeFacts:
    from wfserve.dag.plan import NodeFacts

    settings = spec.settings_of(node)
    return NodeFacts(
        is_function=spec.is_function(node),
        min_workers=settings.min_workers,
        max_workers=settings.max_workers,
        fuse=settings.fuse,
        shared=settings.share,
    )

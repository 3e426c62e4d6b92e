"""`wfserve plan` says which nodes share workers, and why the others do not."""

import json

import pytest
from click.testing import CliRunner

from tests.archives import chain, pack
from wfserve.cli import main


def planned(*arguments):
    return CliRunner().invoke(main, ["plan", *map(str, arguments)])


def test_a_chain_is_one_stage(tmp_path):
    archive = tmp_path / pack(tmp_path, "w", chain("echo", "upper", "obey"))
    result = planned(archive)
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "stage 1: echo → upper → obey",
        "  echo → upper: together, one input, one reader",
        "  upper → obey: together, one input, one reader",
        "2 of 2 hops saved",
    ]


def test_what_is_apart_has_a_reason(tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "models:\n  m: {url: m.mar, max-workers: 2}\n  n: {url: n.mar, fuse: off}\ndag:\n  f: [m]\n  m: [n]\n"
    )
    report = json.loads(planned(spec, "--json").output)
    assert report["stages"] == [["f"], ["m"], ["n"]]
    assert [edge["reason"] for edge in report["edges"]] == [
        "m has 1 to 2 workers, and the others one",
        "n says fuse: off",
    ]
    assert report["hops_saved"] == 0


@pytest.mark.parametrize("content", ["models: {}\n", "models: {}\ndag: {a: [a]}\n", "]["])
def test_what_is_no_workflow_is_one_line(tmp_path, content):
    spec = tmp_path / "spec.yaml"
    spec.write_text(content)
    result = planned(spec)
    assert result.exit_code == 2
    assert result.output.startswith("wfserve: ")
    assert result.output.count("\n") == 1

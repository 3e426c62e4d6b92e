"""What an archiver of TorchServe takes for a flag is one here."""

from pathlib import Path

import click
from click.testing import CliRunner

from wfserve.cli import main
from wfserve.commands.pack import ArchiverCommand


def packed(*arguments):
    result = CliRunner().invoke(main, ["archive", *arguments])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_a_whole_flag_is_no_short_form_of_a_longer_one():
    short, long = (click.Option([flag]) for flag in ("--file", "--file-format"))
    command = ArchiverCommand("c", params=[short, long], callback=lambda **given: click.echo(str(given)))
    assert CliRunner().invoke(command, ["--file", "f"]).stdout == "{'file': 'f', 'file_format': None}\n"


def test_the_flags_of_an_archiver_may_be_cut_short(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("w.yaml").write_text("models: {cnn: {url: cnn.mar}}\ndag: {prepare: [cnn]}\n")
    Path("f.py").write_text("def prepare(data, context):\n    return data\n")
    model = ["--model-n", "m", "--ha=f.py", "--ver", "1", "--extra", "nosuch*"]
    assert packed("model", *model) == "m.mar\n"
    workflow = ["--w", "w", "--spec=w.yaml", "--han", "f.py"]
    assert packed("workflow", *workflow) == "w.war\n"
    assert packed("workflow", *workflow, "--fo") == "w.war\n"
    assert packed("workflow", *workflow, "--fo", "--version", "1.10", "--input", "f.py") == "w.war\n"

"""Plots are drawn from figures that the benches write, with text as text."""

import json
import sys
from collections import defaultdict

import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from bench import plot


class Figures(defaultdict):
    """A figure for every key."""

    def __init__(self):
        super().__init__(lambda: 1.5)


@pytest.mark.parametrize("name", list(plot.DRAWN))
def test_every_plot_is_drawn(name):
    _, draw = plot.DRAWN[name]
    assert draw(Figures()).axes[0].lines


def test_nothing_is_drawn_of_figures_that_are_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["plot", "--figures", str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="2"):
        plot.main()
    assert "transport.json is missing" in capsys.readouterr().err


def test_text_is_text(tmp_path, monkeypatch):
    figures = Figures()
    for _, draw in plot.DRAWN.values():
        draw(figures)
    for source in ("transport", "batching"):
        (tmp_path / f"{source}.json").write_text(json.dumps(figures))
    monkeypatch.setattr(sys, "argv", ["plot", "--figures", str(tmp_path), "--out", str(tmp_path)])
    plot.main()
    assert "64 MB</text>" in (tmp_path / "hops.svg").read_text()

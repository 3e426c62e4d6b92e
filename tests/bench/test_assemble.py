"""Batches are compared that hold the same images, in the order of their rows."""

from bench import assemble


def test_every_way_is_timed(monkeypatch):
    monkeypatch.setattr(assemble, "ROUNDS", 1)
    numbers = assemble.figures()
    assert numbers["assemble_in_place"] > 1
    assert numbers["assemble_gathered"] > 0

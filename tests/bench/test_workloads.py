"""The workloads are valid archives, equal from run to run, whose right answers are known."""

import io
import json

import numpy as np
import pytest
import torch

from bench.workloads.build import NAMES, body, build, is_right
from wfserve.dag.check import check_file


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    directory = tmp_path_factory.mktemp("store")
    build(directory)
    return directory


def test_every_archive_is_sound(store):
    archives = [f"{name}.war" for name in NAMES] + ["mlp.mar", "double.mar"]
    assert [finding for name in archives for finding in check_file(store / name)] == []


def test_bodies_have_the_sizes_that_the_table_says(store):
    assert {name: body(name, store).stat().st_size for name in NAMES} == {
        "seq-bytes": 3136,
        "seq-native": 3136,
        "img-bytes": 602_112,
        "img-native": 602_112,
    }


def test_another_build_is_equal(store, tmp_path):
    build(tmp_path)
    for name in ("seq.bin", "img.bin", "seq.logits"):
        assert (tmp_path / name).read_bytes() == (store / name).read_bytes()


def test_right_answers_are_told_from_wrong_ones(store):
    logits = np.fromfile(store / "seq.logits", np.float32)
    total = float(2 * np.fromfile(store / "img.bin", np.float32)[:10].sum())
    right = {
        "seq-bytes": saved(logits),
        "seq-native": logits.tobytes(),
        "img-bytes": json.dumps({"sum": total}).encode(),
        "img-native": json.dumps({"sum": total}).encode(),
    }
    wrong = {
        "seq-bytes": saved(logits + 1),
        "seq-native": (logits + 1).tobytes(),
        "img-bytes": json.dumps({"sum": total + 1}).encode(),
        "img-native": json.dumps({"sum": total + 1}).encode(),
    }
    assert all(is_right(name, right[name], store) for name in NAMES)
    assert not any(is_right(name, wrong[name], store) for name in NAMES)


def saved(array):
    stream = io.BytesIO()
    torch.save(torch.from_numpy(array), stream)
    return stream.getvalue()

"""Function nodes of seq-bytes and img-bytes: everything between nodes is bytes, as TorchServe has it."""

import io

import torch


def pre(data, context):
    return None if data is None else [row.get("body") for row in data]


def post_seq(data, context):
    return None if data is None else [row.get("body") for row in data]


def post_img(data, context):
    if data is None:
        return None
    images = [torch.load(io.BytesIO(bytes(row.get("body"))), weights_only=True) for row in data]
    return [{"sum": float(x.reshape(-1)[:10].sum())} for x in images]

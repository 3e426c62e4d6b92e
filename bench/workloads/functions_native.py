"""Function nodes of seq-native and img-native: tensors travel as tensors."""

import torch


def pre_seq(data, context):
    return None if data is None else [torch.frombuffer(row["body"], dtype=torch.float32) for row in data]


def pre_img(data, context):
    return (
        None
        if data is None
        else [torch.frombuffer(row["body"], dtype=torch.float32).reshape(3, 224, 224) for row in data]
    )


def post_seq(data, context):
    return None if data is None else [row["body"].numpy().tobytes() for row in data]


def post_img(data, context):
    return None if data is None else [{"sum": float(row["body"].reshape(-1)[:10].sum())} for row in data]

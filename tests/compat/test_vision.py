"""Vision handlers: what they read, how they prepare it, what they answer."""

from __future__ import annotations

import base64
import io
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Image = pytest.importorskip("PIL.Image")

CLASSIFIER = """
    import torch
    class Mean(torch.nn.Module):
        def forward(self, x):
            return torch.cat([x.mean(dim=(2, 3)), x.amin(dim=(2, 3))], dim=1)
"""
SEGMENTER = """
    import torch
    class Halves(torch.nn.Module):
        def forward(self, x):
            scores = torch.zeros(len(x), 3, 2, 2)
            scores[:, 2, 0], scores[:, 1, 1] = 10, 20
            return {"out": scores}
"""
DETECTOR = """
    import torch
    class Two(torch.nn.Module):
        def forward(self, x):
            return [
                {
                    "boxes": torch.tensor([[0.0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]),
                    "labels": torch.tensor([1, 2, 1]),
                    "scores": torch.tensor([0.75, 0.25, 0.5]),
                }
                for _ in x
            ]
"""


def png(mode: str = "RGB", size: tuple[int, int] = (300, 260), color: Any = (255, 0, 0)) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, color).save(file, "PNG")
    return file.getvalue()


def test_an_image_comes_as_bytes_base64_or_numbers(loaded: Callable[..., Any]) -> None:
    handler = loaded("image_classifier", "ImageClassifier", CLASSIFIER)
    image = png()
    rows = [
        {"data": image},
        {"body": bytearray(image)},
        {"body": memoryview(image)},
        {"data": base64.b64encode(image).decode()},
        {"data": b"", "body": image},
    ]
    batch = handler.preprocess(rows)
    assert batch.shape == (5, 3, 224, 224)
    assert (batch == batch[0]).all()
    # red, in the middle of black, by the mean and deviation of ImageNet
    assert batch[0, :, 0, 0].tolist() == pytest.approx([(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    assert handler.preprocess([{"body": [[[1, 2]]]}, {"body": torch.zeros(1, 1, 2)}]).tolist() == [
        [[[1, 2]]],
        [[[0, 0]]],
    ]


def test_what_is_no_image_is_an_error(loaded: Callable[..., Any]) -> None:
    handler = loaded("image_classifier", "ImageClassifier", CLASSIFIER)
    with pytest.raises(Image.UnidentifiedImageError):
        handler.preprocess([{"data": b"no image"}])
    with pytest.raises(RuntimeError, match=r"size|shape"):
        handler.preprocess([{"data": png("L", color=3)}])


def test_the_classifier_answers_with_its_best_labels(loaded: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "index_to_name.json").write_text('{"0": ["n1", "red"], "1": "green", "2": "blue", "3": "x"}')
    handler = loaded("image_classifier", "ImageClassifier", CLASSIFIER)
    handler.set_max_result_classes(2)
    assert handler.get_max_result_classes() == 2
    (answer,) = handler.postprocess(torch.tensor([[3.0, 1.0, 2.0, 0.0]]))
    assert list(answer) == ["red", "blue"]
    assert answer["red"] == pytest.approx(0.6439, abs=1e-4)


def test_fewer_classes_than_asked_for_are_all_named(loaded: Callable[..., Any]) -> None:
    handler = loaded("image_classifier", "ImageClassifier", CLASSIFIER)
    assert handler.postprocess(torch.zeros(2, 3)) == [{str(i): pytest.approx(1 / 3) for i in range(3)}] * 2


def test_the_segmenter_answers_for_each_pixel(
    loaded: Callable[..., Any], context_of: Callable[..., Any]
) -> None:
    handler = loaded("image_segmenter", "ImageSegmenter", SEGMENTER)
    answers = handler.handle([{"data": png()}] * 2, context_of(size=2))
    assert np.array(answers).shape == (2, 2, 2, 2)
    assert answers[1][0][1] == [2, pytest.approx(1, abs=1e-3)]
    assert answers[1][1][0] == [1, pytest.approx(1, abs=1e-3)]


def test_the_detector_answers_with_what_it_is_sure_of(
    loaded: Callable[..., Any], context_of: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "index_to_name.json").write_text('{"1": "cat", "2": "dog"}')
    handler = loaded("object_detector", "ObjectDetector", DETECTOR)
    assert handler.preprocess([{"data": png(size=(3, 2))}]).tolist() == [
        [[[1] * 3] * 2, [[0] * 3] * 2, [[0] * 3] * 2]
    ]
    assert handler.handle([{"data": png()}], context_of()) == [
        [{"cat": [0, 1, 2, 3], "score": 0.75}, {"cat": [8, 9, 10, 11], "score": 0.5}]
    ]
    handler.threshold = 1
    assert handler.handle([{"data": png()}], context_of()) == [[]]


def test_the_limit_on_pixels_is_pillows_unless_the_server_lifts_it(
    loaded: Callable[..., Any], context_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    handler = loaded("image_classifier", "ImageClassifier", CLASSIFIER)
    with pytest.raises(Image.DecompressionBombError):
        handler.preprocess([{"data": png()}])
    context = context_of({"modelFile": "model.py"})
    context.system_properties["limit_max_image_pixels"] = False
    handler.initialize(context)
    assert handler.preprocess([{"data": png()}]).shape == (1, 3, 224, 224)


def test_explanations_without_captum_are_refused_clearly(
    loaded: Callable[..., Any], context_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ts.utils.util import PredictionException

    monkeypatch.setitem(sys.modules, "captum", None)
    handler = loaded("image_classifier", "ImageClassifier", CLASSIFIER)
    with pytest.raises(PredictionException, match=r"captum.* : 501"):
        handler.handle([{"data": png()}], context_of(headers={"explain": "True"}))


def test_explanations_weigh_each_pixel(
    loaded: Callable[..., Any], context_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gradients:
        """Integrated gradients of a model, as captum's class of that name, for linear models exact."""

        def __init__(self, model: Any) -> None:
            self.model = model

        def attribute(self, inputs: torch.Tensor, target: int, n_steps: int) -> torch.Tensor:
            assert n_steps == 15
            inputs = inputs.clone().requires_grad_()
            self.model(inputs)[:, target].sum().backward()
            assert inputs.grad is not None
            return inputs.detach() * inputs.grad

    module: Any = type(sys)("captum.attr")
    module.IntegratedGradients = Gradients
    monkeypatch.setitem(sys.modules, "captum", type(sys)("captum"))
    monkeypatch.setitem(sys.modules, "captum.attr", module)
    handler = loaded("image_classifier", "ImageClassifier", CLASSIFIER)
    rows = [{"data": [[[3.0, 0]], [[1, 2]]], "target": b"1"}, {"data": [[[0.0, 0]], [[8, 8]]]}]
    answers = handler.handle(rows, context_of(headers={"explain": "True"}, size=2))
    assert answers == [[[[0, 0]], [[0.5, 1]]], [[[0, 0]], [[4, 4]]]]


def transforms() -> Any:
    import ts.torch_handler.image_transforms

    return ts.torch_handler.image_transforms


@pytest.mark.parametrize(
    ("size", "scaled"), [((300, 400), (256, 341)), ((511, 257), (509, 256)), ((10, 10), (256, 256))]
)
def test_resize_makes_the_shorter_side_fit(size: tuple[int, int], scaled: tuple[int, int]) -> None:
    assert transforms().Resize(256)(Image.new("RGB", size)).size == scaled


@pytest.mark.parametrize(
    ("side", "crop", "expected"),
    [
        (5, 3, [1, 2, 3]),
        (4, 3, [0, 1, 2]),  # half a pixel rounds to even
        (6, 3, [2, 3, 4]),
        (2, 5, [0, 0, 1, 0, 0]),
        (3, 4, [0, 1, 2, 0]),
    ],
)
def test_the_middle_is_cut_out_or_padded(side: int, crop: int, expected: list[int]) -> None:
    image = Image.fromarray(np.tile(np.arange(side, dtype=np.uint8), (side, 1)))
    cut = np.array(transforms().CenterCrop(crop)(image))
    assert cut.shape == (crop, crop)
    assert cut[crop // 2].tolist() == expected


@pytest.mark.parametrize(
    ("mode", "color", "pixel"),
    [
        ("L", 51, [0.2]),
        ("RGBA", (255, 0, 51, 102), [1, 0, 0.2, 0.4]),
        ("1", 1, [1]),
        ("F", 0.5, [0.5]),
        ("I", 70000, [70000]),
        ("I;16", 65535, [-1]),
    ],
)
def test_pixels_become_numbers(mode: str, color: Any, pixel: list[float]) -> None:
    tensor = transforms().ToTensor()(Image.new(mode, (3, 2), color))
    assert tensor.shape == (len(pixel), 2, 3)
    assert tensor[:, 1, 2].tolist() == pytest.approx(pixel)
    assert tensor.is_contiguous()


@pytest.mark.parametrize("broken", ["raise RuntimeError('operator torchvision::nms does not exist')", None])
def test_torchvision_may_be_broken_or_missing(
    broken: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    if broken is None:
        monkeypatch.setitem(sys.modules, "torchvision", None)
    else:
        (tmp_path / "torchvision.py").write_text(broken)
    own = transforms()
    assert own.find_transforms() is own


def test_torchvision_is_used_where_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").touch()
    (tmp_path / "torchvision" / "transforms.py").touch()
    assert transforms().find_transforms().__name__ == "torchvision.transforms"

"""A published model, converted and exported to LiteRT again, predicts what its original file does."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import atrous
from atrous import export
from atrous.convert import convert
from atrous.data.pairing import IMAGE_SUFFIXES
from atrous.inference.frames import as_batch, on_canvas
from atrous.segmenter import Segmenter, read_image
from atrous.types import Image, LabelMap
from tests.conftest import SHARED

MODELS = SHARED / "models"
ORIGINAL = MODELS / "deeplabv3_257_mv_gpu.tflite"
PHOTOS = sorted(path for path in (SHARED / "photos").glob("*") if path.suffix in IMAGE_SUFFIXES)
VOC = SHARED / "data" / "VOCdevkit" / "VOC2012"

pytestmark = pytest.mark.skipif(not MODELS.exists(), reason=f"no published models at {MODELS}")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install '.[litert]'")
    folder = tmp_path_factory.mktemp("published")
    convert(ORIGINAL).save(folder / "m.safetensors")
    export.run(folder / "m.safetensors", "litert", size=(257, 257))
    return atrous.load(folder / "m.tflite")


class Original:
    """The original file: floats from -1 to 1 on a canvas of 257 x 257 to logits at that size."""

    def __init__(self) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(str(ORIGINAL), num_threads=torch.get_num_threads())
        self.interpreter.allocate_tensors()
        self.inp = self.interpreter.get_input_details()[0]["index"]
        self.out = self.interpreter.get_output_details()[0]["index"]

    def labels(self, image: Image, segmenter: Segmenter) -> LabelMap:
        """At the image's size, as Atrous upsamples labels from a canvas."""
        frame = on_canvas(as_batch(image, torch.device("cpu")), segmenter.network, segmenter.inference.window)
        self.interpreter.set_tensor(self.inp, frame.images.float().permute(0, 2, 3, 1).numpy() / 127.5 - 1)
        self.interpreter.invoke()
        labels = self.interpreter.get_tensor(self.out).argmax(-1)[:, : frame.height, : frame.width]
        full = F.interpolate(torch.from_numpy(labels)[:, None].double(), image.shape[:2], mode="nearest-exact")
        return full[0, 0].numpy().astype(np.uint8)


def agreement(paths: list[Path], segmenter: Segmenter) -> float:
    original, equal, total = Original(), 0, 0
    for path in paths:
        image = read_image(path)
        same = segmenter.predict(image).semantic == original.labels(image, segmenter)
        equal, total = equal + int(same.sum()), total + same.size
    return equal / total


def test_photos_have_the_labels_of_the_original(exported: Segmenter) -> None:
    assert len(PHOTOS) > 3
    assert agreement(PHOTOS, exported) >= 0.999


@pytest.mark.slow
def test_voc_images_have_the_labels_of_the_original(exported: Segmenter) -> None:
    names = (VOC / "ImageSets" / "Segmentation" / "val.txt").read_text().split()
    assert len(names) == 312
    assert agreement([VOC / "JPEGImages" / f"{name}.jpg" for name in names], exported) >= 0.999

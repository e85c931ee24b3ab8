"""Small files to convert, each as its program writes it: TensorFlow DeepLab's smallest network, narrow PyTorch ones."""

import contextlib
import functools
import http.server
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from atrous.convert.arrays import Shapes
from atrous.convert.zoo import ZOO
from atrous.models import build
from atrous.models.deeplab_v3 import DeepLabV3
from atrous.models.pspnet import PSPNet
from tests.convert.conftest import meta_model
from tests.convert.readers import writers
from tests.reference import semseg, tf_deeplab

HALF = "mobilenetv2_dm05_coco_voc_trainaug"  # the zoo's smallest model


FIELDS = {"backbone": {"name": "mobilenet_v2", "depth_multiplier": 0.5}, "aspp": {"rates": ()}}


@functools.cache
def half_width() -> dict[str, NDArray[np.float32]]:
    """The variables of that model, by the goldens' formula."""
    shapes = tf_deeplab.listing(meta_model(DeepLabV3.Config.model_validate(FIELDS), 21))
    return {name: tf_deeplab.seeded(name, shape) for name, shape in shapes.items()}


def write_training(folder: Path) -> Path:
    """The folder that `Saver` leaves, optimiser's slots included; returns the prefix of its checkpoint."""
    folder.mkdir()
    weights = half_width()
    slots = {f"{name}/Momentum": np.zeros_like(array) for name, array in weights.items() if name.endswith("weights")}
    step = {"global_step": np.array(30_000, np.int64)}
    writers.write_checkpoint(folder / "model.ckpt-30000", {**weights, **slots, **step})
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-30000"\n')
    return folder / "model.ckpt-30000"


def write_archive(path: Path, training: Path) -> None:
    """An archive as the zoo has it."""
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for file in sorted(training.iterdir()):
            tar.add(file, f"deeplabv3_mnv2_dm05/{file.name}")


def archive_name() -> str:
    return f"{ZOO[HALF].archive}.tar.gz"


def write_graph(path: Path) -> None:
    graph = b"".join(writers.constant(name, writers.tensor(array)) for name, array in half_width().items())
    path.write_bytes(graph + writers.node("ImageTensor", "Placeholder"))


def write_tflite(path: Path) -> None:
    """The same model with its batch norms folded; no convolution feeds another, for only their weights are read."""
    model = build(DeepLabV3.Config.model_validate(FIELDS), 21)
    tf_deeplab.load_seeded(model)
    arrays = tf_deeplab.folded_checkpoint(model)
    tensors: list[writers.Flat] = [{0: np.array([1, 65, 65, 3], np.int32), 3: "image"}]
    buffers: list[writers.Flat] = [{}]
    operators: list[writers.Flat] = []
    for name in (name for name in arrays if name.endswith("weights")):
        scope = name.rpartition("/")[0]
        weights = np.ascontiguousarray(arrays[name].transpose(3, 0, 1, 2))  # OHWI, or 1HWO of a depthwise kernel
        for part, array in (("weights", weights), ("biases", arrays[f"{scope}/biases"])):
            buffers.append({0: np.frombuffer(array.tobytes(), np.uint8)})
            place = ("I", len(buffers) - 1)
            tensors.append({0: np.array(array.shape, np.int32), 2: place, 3: f"{scope}/{part}"})
        operators.append(_convolution(len(tensors), is_depthwise=name.endswith("depthwise_weights")))
    image = np.array([0], np.int32)
    graph = {0: tensors, 1: image, 2: image, 3: operators}
    codes = [{0: ("b", 3)}, {0: ("b", 4)}]  # CONV_2D, DEPTHWISE_CONV_2D
    path.write_bytes(writers.flatbuffer({0: ("I", 3), 1: codes, 2: [graph], 4: buffers}))


def _convolution(num_tensors: int, *, is_depthwise: bool) -> writers.Flat:
    """Of the image with the last two tensors, its weights and biases."""
    inputs = np.array([0, num_tensors - 2, num_tensors - 1], np.int32)
    stride_and_multiplier = {1: ("i", 1), 2: ("i", 1)} | ({3: ("i", 1)} if is_depthwise else {})
    output, kind = np.array([0], np.int32), ("B", 2 if is_depthwise else 1)
    return {0: ("I", int(is_depthwise)), 1: inputs, 2: output, 3: kind, 4: stride_and_multiplier}


def semseg_shapes() -> Shapes:
    """A PSPNet without a pyramid, with heads of eight channels."""
    config = PSPNet.Config(bins=(), head_channels=8, auxiliary_channels=8)
    return semseg.listing(meta_model(config, 21))


def write_pth(path: Path, shapes: Shapes) -> None:
    """Zeros in half precision."""
    torch.save({name: torch.zeros(shape, dtype=torch.float16) for name, shape in shapes.items()}, path)


# ---- the zoo


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The address of a server on this machine that has the files of a folder."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

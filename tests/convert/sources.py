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
from atrous.convert.readers.checkpoint import OBJECT_SUFFIX
from atrous.convert.zoo import ZOO
from atrous.models import build
from atrous.models.deeplab_v3 import DeepLabV3
from atrous.models.pspnet import PSPNet
from tests.convert import graphs
from tests.convert.conftest import meta_model
from tests.convert.readers import writers
from tests.reference import deeplab2, semseg, tf_deeplab

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
    path.write_bytes(graphs.frozen(graphs.half_width_steps(), half_width()))


@functools.cache
def folded_half_width() -> dict[str, NDArray[np.float32]]:
    model = build(DeepLabV3.Config.model_validate(FIELDS), 21)
    tf_deeplab.load_seeded(model)
    return tf_deeplab.folded_checkpoint(model)


def write_tflite(path: Path) -> None:
    """The same model with its batch norms folded."""
    path.write_bytes(graphs.lite(graphs.half_width_steps(), folded_half_width()))


def write_deeplab2(folder: Path) -> None:
    """A checkpoint of TensorFlow 2, and the textproto of its training."""
    tiny = deeplab2.golden("tiny_panoptic_65x97")
    weights = deeplab2.seeded_weights(tiny.shapes)
    writers.write_checkpoint(folder / "ckpt-60000", weights, suffix=OBJECT_SUFFIX)
    (folder / "config.textproto").write_text(f"model_options {{ {tiny.options['config_text']} }}")


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

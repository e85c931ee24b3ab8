"""Kinds of files that hold a network, and that are not read: each is refused with what it is, and what to do."""

from pathlib import Path
from typing import NoReturn

from atrous.errors import ConversionError

MADE = "convert the file that it was made from"
EXPORTED = (
    "convert the file that it was exported from; a model that Atrous exported needs no conversion: atrous predict"
)
OF = "a model of {}, which is not read: " + MADE
COMPILED = "compiled for {}, in whose code the weights can't be read: convert the file that it was compiled from"
CORE_ML = f"a model in Core ML, which has its own names for layers: {MADE}"
ONNX = f"a model in ONNX, whose exporter has folded batch norms and dropped names: {EXPORTED} MODEL.onnx IMAGES"
SUFFIXES: dict[str, tuple[str, ...]] = {
    CORE_ML: (".mlmodel", ".mlpackage", ".mlmodelc"),
    ONNX: (".onnx",),
    f"a model in OpenVINO's format, where batch norms are folded: {EXPORTED} MODEL.xml IMAGES": (".xml",),
    OF.format("ncnn"): (".param",),
    OF.format("MNN"): (".mnn",),
    OF.format("TNN"): (".tnnmodel", ".tnnproto"),
    OF.format("Caffe"): (".caffemodel", ".prototxt"),
    OF.format("PaddlePaddle"): (".pdparams", ".pdmodel", ".pdiparams"),
    OF.format("MXNet"): (".params",),
    OF.format("Darknet"): (".weights",),
    OF.format("MATLAB"): (".mat",),
    OF.format("Torch 7"): (".t7",),
    COMPILED.format("TensorRT"): (".engine", ".plan", ".trt"),
    COMPILED.format("a Rockchip NPU"): (".rknn",),
    COMPILED.format("a Hailo chip"): (".hef",),
    COMPILED.format("Qualcomm's SNPE"): (".dlc",),
    COMPILED.format("ExecuTorch"): (".pte",),
    "a single array of NumPy, or a pickle, which is never run: weights by name are read from a .npz": (".npy",),
}
BY_SUFFIX = {suffix: what for what, suffixes in SUFFIXES.items() for suffix in suffixes}
FOLDERS = (".mlpackage", ".mlmodelc")


def refuse(what: str, label: str) -> NoReturn:
    raise ConversionError(f"{label}: {what}")


def refuse_by_suffix(path: Path) -> None:
    """Raises ConversionError where the name of a file, or of Core ML's folders, tells a program that isn't read."""
    suffix = path.suffix.lower()
    if suffix in BY_SUFFIX and (path.is_file() or suffix in FOLDERS):
        refuse(BY_SUFFIX[suffix], str(path))

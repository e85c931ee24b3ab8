"""The engines that compute networks."""

from atrous.runtimes import pytorch
from atrous.runtimes.contract import Runtime
from atrous.runtimes.litert import LITERT
from atrous.runtimes.onnx import ONNX
from atrous.runtimes.openvino import OPENVINO
from atrous.runtimes.pt2 import PT2

__all__ = ["RUNTIMES", "Runtime"]

RUNTIMES: dict[str, Runtime] = {
    "pytorch": Runtime(
        ".safetensors", pytorch.read_metadata, pytorch.open_file, has_bf16=True, recognises=pytorch.recognises
    ),
    "onnx": ONNX,
    "openvino": OPENVINO,
    "pt2": PT2,
    "litert": LITERT,
}

"""The engines that compute networks."""

from atrous.runtimes import pytorch
from atrous.runtimes.contract import Runtime
from atrous.runtimes.exported import EXPORTED
from atrous.runtimes.litert import LITERT
from atrous.runtimes.onnx import ONNX
from atrous.runtimes.openvino import OPENVINO

__all__ = ["RUNTIMES", "Runtime"]

RUNTIMES: dict[str, Runtime] = {
    "pytorch": Runtime(
        ".safetensors", pytorch.read_metadata, pytorch.open_file, has_bf16=True, recognises=pytorch.recognises
    ),
    "onnx": ONNX,
    "openvino": OPENVINO,
    "pt2": EXPORTED,
    "litert": LITERT,
}

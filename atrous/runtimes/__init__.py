"""The engines that compute networks."""

from atrous.runtimes import pytorch
from atrous.runtimes.contract import Runtime
from atrous.runtimes.litert import LITERT
from atrous.runtimes.onnx import ONNX

__all__ = ["RUNTIMES", "Runtime"]

RUNTIMES: dict[str, Runtime] = {
    "pytorch": Runtime(".safetensors", pytorch.read_metadata, pytorch.open_file, recognises=pytorch.recognises),
    "onnx": ONNX,
    "litert": LITERT,
}

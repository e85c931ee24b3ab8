"""TensorFlow Lite files, computed by LiteRT."""

from atrous.runtimes.contract import Runtime
from atrous.runtimes.litert.opening import open_file, read_metadata, recognises
from atrous.runtimes.litert.rounding import with_rounding
from atrous.runtimes.litert.writing import write

__all__ = ["LITERT"]

LITERT = Runtime(
    ".tflite",
    read_metadata,
    open_file,
    write=write,
    recognises=recognises,
    packages=("ai_edge_litert",),
    extra="litert",
    has_one_size=True,
    int8=True,
    as_rounded=with_rounding,
)

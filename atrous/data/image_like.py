"""What Python programs hold images in, and how each becomes an image: files, bytes, arrays, tensors, PIL images."""

import io
import os
import re
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, BinaryIO, TypeAlias, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor

from atrous.data.pixels import as_rgb
from atrous.data.pixels import read_image as read_file
from atrous.errors import DataError
from atrous.files import require_regular, user_path
from atrous.types import Image

ImageLike: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | BinaryIO | NDArray[np.uint8] | Tensor | PILImage.Image
)
ACCEPTED = "a path, an RGB array [H, W, 3] or a tensor [3, H, W] of uint8, a PIL image, or a binary file or its bytes"
_URL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]+:/|data:)")  # pathlib leaves one slash


def read_image(image: ImageLike) -> Image:
    """RGB [H, W, 3] uint8, turned upright by its EXIF. Raises FileNotFoundError or DataError with the path, or type."""
    for kinds, read in _READERS.items():
        if isinstance(image, kinds):
            return read(image)
    if _is_binary_file(image):
        return read_file(image)
    raise DataError(f"an image can't be read from {_description(image)}; give {ACCEPTED}")


def is_one_image(image: object) -> TypeGuard[ImageLike]:
    return isinstance(image, tuple(kind for kinds in _READERS for kind in kinds)) or hasattr(image, "read")


def several(images: object) -> list[Image]:
    """Each of many images; the error of one says which it is."""
    if not isinstance(images, Iterable) or isinstance(images, Mapping | AbstractSet):
        raise DataError(f"an image can't be read from {_description(images)}; give {ACCEPTED}, or a list of these")
    return [_numbered(number, image) for number, image in enumerate(images)]


def _numbered(number: int, image: ImageLike) -> Image:
    try:
        return read_image(image)
    except DataError as error:
        raise DataError(f"image {number} of the list (counted from 0): {error}") from error


# ---- files


def _of_path(path: str | os.PathLike[str]) -> Image:
    text = os.fspath(path)
    if _URL.match(text) and not os.path.exists(text):  # noqa: PTH110 - False for any text, however long
        raise DataError(f"{text[:80]}: a URL, not a file; download it, and give the path or the bytes")
    file = user_path(text)
    try:
        require_regular(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"no such image: {path}") from None
    except (OSError, ValueError) as error:  # a folder, a pipe, a name that is too long, or with a null in it
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read image {text[:200]!r}: {reason}") from error
    return read_file(file)


def _of_bytes(content: bytes | bytearray) -> Image:
    return read_file(io.BytesIO(content))


def _is_binary_file(file: object) -> TypeGuard[BinaryIO]:
    if isinstance(file, io.TextIOBase):
        raise DataError("an image can't be read from a text file; open it with mode 'rb'")
    return callable(getattr(file, "read", None))


# ---- arrays and tensors


def _of_array(array: NDArray[Any]) -> Image:  # [H, W, 3], [H, W] or [H, W, 1]
    pixels = array[..., None] if array.ndim == 2 else array
    if array.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or not array.size:
        what = f"{list(array.shape)} of {array.dtype}"
        raise DataError(
            f"an array of an image must be RGB [H, W, 3] or grey [H, W] of uint8, got {what}{_array_advice(array)}"
        )
    return _writable(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _of_tensor(tensor: Tensor) -> Image:  # [3, H, W], [H, W] or [1, H, W]
    pixels = tensor[None] if tensor.ndim == 2 else tensor
    if tensor.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[0] not in (1, 3) or not tensor.numel():
        what = f"{list(tensor.shape)} of {tensor.dtype}"
        raise DataError(
            f"a tensor of an image must be RGB [3, H, W] or grey [H, W] of uint8, got {what}{_tensor_advice(tensor)}"
        )
    return _writable(pixels.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy())


def _writable(pixels: Image) -> Image:
    """In one piece, and writable, as PyTorch wants the arrays that it shares."""
    return np.require(pixels, requirements=["C", "W"])


def _array_advice(array: NDArray[Any]) -> str:
    if array.ndim == 4:
        return "; several images are given as a list: list(array)"
    if array.ndim == 3 and array.shape[2] == 4:
        return "; leave out the fourth band: array[..., :3]"
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.size:
        return "; bands come last: array.transpose(1, 2, 0)"
    if array.dtype.kind == "f" and array.size:
        scaled = "(array * 255)" if array.max() <= 1 else "array"
        return f"; images are in 0..255: {scaled}.round().clip(0, 255).astype(np.uint8)"
    if array.dtype == np.uint16:
        return "; images are in 0..255: (array >> 8).astype(np.uint8) if all 16 bits are used"
    return ""


def _tensor_advice(tensor: Tensor) -> str:
    if tensor.ndim == 4:
        return "; several images are given as a list: list(tensor)"
    if tensor.ndim == 3 and tensor.shape[2] in (1, 3) and tensor.shape[0] not in (1, 3):
        return "; bands come first: tensor.permute(2, 0, 1)"
    if tensor.ndim == 3 and tensor.shape[0] == 4:
        return "; leave out the fourth band: tensor[:3]"
    if tensor.is_floating_point() and tensor.numel():
        scaled = "(tensor * 255)" if float(tensor.max()) <= 1 else "tensor"
        return f"; images are in 0..255: {scaled}.round().clamp(0, 255).to(torch.uint8)"
    return ""


def _description(value: object) -> str:
    return "None" if value is None else f"{'an' if type(value).__name__[0] in 'aeiou' else 'a'} {type(value).__name__}"


_READERS: dict[tuple[type, ...], Callable[[Any], Image]] = {
    (str, os.PathLike): _of_path,
    (bytes, bytearray, memoryview): _of_bytes,
    (np.ndarray,): _of_array,
    (Tensor,): _of_tensor,
    (PILImage.Image,): as_rgb,
}

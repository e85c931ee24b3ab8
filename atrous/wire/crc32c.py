"""CRC-32C (Castagnoli, RFC 3720) in NumPy alone, as fast as memory allows, and how TensorFlow masks it.

A checksum is the remainder of the message, as a polynomial over GF(2), divided by the generator P. One multiple of P
has only four terms, all whole bytes apart: x^(8*5685) + x^(8*1362) + x^(8*426) + 1. Modulo P, a byte may therefore be
removed and added (XOR) at the three places FOLD bytes later: long runs are folded forwards in three XORs, until at most
one span is left for the usual table. Squaring keeps the relation, so it also holds for FOLD times a power of two.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Bytes: TypeAlias = bytes | bytearray | memoryview | NDArray[np.uint8]
GENERATOR = 0x82F63B78  # bits reversed: the checksum takes the lowest bit of a byte first
FOLD = (5685 - 1362, 5685 - 426, 5685)
STRETCHES = tuple(64 >> halvings for halvings in range(7))  # the longest run is 270 KiB: it fits a core's cache
PIECE = 2**21
MASK_DELTA = 0xA282EAD8


def crc32c(data: Bytes) -> int:
    """The checksum of a contiguous buffer, which isn't modified; takes memory for two pieces of it."""
    message = np.frombuffer(data, np.uint8)
    if message.size <= FOLD[-1]:
        return _by_table(message, 0xFFFFFFFF) ^ 0xFFFFFFFF
    rest = message[:4] ^ np.uint8(0xFF)  # the initial value, which acts on the first four bytes
    for start in range(4, message.size, PIECE):
        rest = _folded(np.concatenate([rest, message[start : start + PIECE]]), STRETCHES[0])
    for stretch in STRETCHES[1:]:
        rest = _folded(rest, stretch)
    return _by_table(rest, 0) ^ 0xFFFFFFFF


def masked_crc32c(data: Bytes) -> int:
    """As TensorFlow stores a checksum: rotated and shifted, since checksums of data with checksums in it are weak."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


def _folded(message: NDArray[np.uint8], stretch: int) -> NDArray[np.uint8]:
    """The last FOLD[-1] * stretch bytes, with everything before folded into them (`message` is overwritten)."""
    nearest, span, start = FOLD[0] * stretch, FOLD[-1] * stretch, 0
    while (left := message.size - span - start) > 0:
        run = message[start : start + min(nearest, left)]
        for distance in FOLD:
            message[start + distance * stretch :][: run.size] ^= run
        start += run.size
    return message[start:]


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ GENERATOR * (byte & 1)
    return byte


TABLE = tuple(_remainder(byte) for byte in range(256))


def _by_table(message: NDArray[np.uint8], crc: int) -> int:
    for byte in message.tobytes():
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc

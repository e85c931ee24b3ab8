"""CRC-32C (Castagnoli, RFC 3720) at the memory's speed, in numpy alone, and TensorFlow's masking of it.

A checksum is the remainder of the message, as a polynomial over GF(2), divided by the generator P. Some multiple of P
has four terms only, all whole bytes apart: x^(8*5685) + x^(8*1362) + x^(8*426) + 1. Modulo P, a byte may therefore be
taken away and added (XOR) to the three places FOLD bytes later: long runs are folded forwards in three XORs, until no
more than one span is left for the usual table. Squaring keeps the relation, so FOLD times a power of two holds, too.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Bytes: TypeAlias = bytes | bytearray | memoryview | NDArray[np.uint8]
GENERATOR = 0x82F63B78  # bits reversed, as the checksum takes the lowest bit of a byte first
FOLD = (5685 - 1362, 5685 - 426, 5685)
SCALES = tuple(64 >> halvings for halvings in range(7))  # the longest run is 270 KiB: it stays in a core's cache
PIECE = 2**21
MASK_DELTA = 0xA282EAD8


def crc32c(data: Bytes) -> int:
    """The checksum of a contiguous buffer, which is left as it is; memory for two pieces of it."""
    message = np.frombuffer(data, np.uint8)
    if message.size <= FOLD[-1]:
        return _by_table(message, 0xFFFFFFFF) ^ 0xFFFFFFFF
    rest = message[:4] ^ np.uint8(0xFF)  # the initial value, where it acts
    for start in range(4, message.size, PIECE):
        rest = _folded(np.concatenate([rest, message[start : start + PIECE]]), SCALES[0])
    for scale in SCALES[1:]:
        rest = _folded(rest, scale)
    return _by_table(rest, 0) ^ 0xFFFFFFFF


def masked_crc32c(data: Bytes) -> int:
    """As TensorFlow stores a checksum: turned and shifted, lest data that holds checksums be weakly checked."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


def _folded(message: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """The last FOLD[-1] * scale bytes, with all that came before folded into them (`message` is written over)."""
    nearest, span, start = FOLD[0] * scale, FOLD[-1] * scale, 0
    while (left := message.size - span - start) > 0:
        run = message[start : start + min(nearest, left)]
        for distance in FOLD:
            message[start + distance * scale :][: run.size] ^= run
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

import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from atrous.wire import crc32c as crc
from atrous.wire.crc32c import FOLD, GENERATOR, PIECE, crc32c, masked_crc32c
from tests.reference.crc32c import slow_crc32c

SPAN = FOLD[-1]


KNOWN = (
    (b"", 0),
    (b"123456789", 0xE3069283),
    (bytes(32), 0x8A9136AA),  # this and the next three: RFC 3720, B.4
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
)


def test_checksums_have_their_published_values() -> None:
    for data, expected in KNOWN:
        assert crc32c(data) == expected == slow_crc32c(data)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 3 * SPAN), st.integers(0, 2**32 - 1))
def test_checksums_follow_the_definition(size: int, seed: int) -> None:
    data = np.random.default_rng(seed).bytes(size)
    assert crc32c(data) == slow_crc32c(data)


def test_checksums_follow_the_definition_at_the_edges_of_folding() -> None:
    for size in (1, 3, 4, SPAN - 1, SPAN, SPAN + 1, SPAN + 4, SPAN + FOLD[0], SPAN + FOLD[0] + 1, 40_000):
        data = np.random.default_rng(size).bytes(size)
        assert crc32c(data) == slow_crc32c(data), size


def test_pieces_are_joined() -> None:
    for size in (PIECE + 3, PIECE + 4, PIECE + 5, PIECE + 600_000):
        message = np.random.default_rng(size).integers(0, 256, size, np.uint8)
        assert crc32c(message) == crc._by_table(message, 0xFFFFFFFF) ^ 0xFFFFFFFF, size


def test_the_fold_is_a_multiple_of_the_generator() -> None:
    powers = [0x80000000]  # x^0, bits reversed
    for _ in range(8 * SPAN):
        powers.append(powers[-1] >> 1 ^ GENERATOR * (powers[-1] & 1))
    nearest, middle, span = (8 * distance for distance in FOLD)
    assert powers[span] ^ powers[span - nearest] ^ powers[span - middle] ^ powers[0] == 0


def test_the_data_is_not_modified() -> None:
    data = np.random.default_rng(0).integers(0, 256, 50_000, np.uint8)
    before = data.copy()
    assert crc32c(data) == crc32c(memoryview(data.tobytes())) == crc32c(data.tobytes())
    assert (data == before).all()


def test_masked_checksums_are_tensorflows() -> None:
    variable = np.full(16, 0.25, np.float32)
    assert masked_crc32c(variable.tobytes()) == 0x3A94D8F4  # written by TensorFlow 1.15 for this variable


def test_64_mib_take_less_than_a_second() -> None:
    data = np.zeros(64 * 2**20, np.uint8)
    start = time.process_time()
    crc32c(data)
    assert time.process_time() - start < 1  # 0.03 s on a free core; the table alone takes 6 s

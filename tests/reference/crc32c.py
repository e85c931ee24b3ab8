"""The definition of CRC-32C (RFC 3720), bit by bit."""

GENERATOR = 0x82F63B78  # bits reversed


def slow_crc32c(data: bytes) -> int:
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ GENERATOR * (state & 1)
    return state ^ 0xFFFFFFFF

"""resnet_v1_50/... as TF-slim names it, and DeepLab's deeper stem; a root is one of the stems and one of the units."""

STEM = ((r"backbone\.stem\.0", r"{root}/conv1"),)
DEEP_STEM = tuple((rf"backbone\.stem\.{index}", rf"{{root}}/conv1_{index + 1}") for index in range(3))


def _units(kind: str, most: int) -> tuple[tuple[str, str], ...]:
    return tuple(
        (rf"backbone\.c{block + 1}\.{unit - 1}\.(\w+)", rf"{{root}}/block{block}/unit_{unit}/{kind}/\1")
        for block in range(1, 5)
        for unit in range(1, most + 1)
    )


LITE = _units("lite_bottleneck_v1", most=2)
BOTTLENECK = _units("bottleneck_v1", most=23)

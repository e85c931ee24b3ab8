"""A part of an upsampled map is that of the whole one."""

import pytest
import torch
from torch.nn import functional as F

from atrous.ops import upsample_part


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(
    ("small", "large"),
    [((5, 7), (33, 49)), ((9, 9), (20, 31)), ((1, 1), (8, 8)), ((1, 6), (3, 41)), ((33, 33), (33, 33))],
)
def test_a_part_is_that_of_the_whole(small: tuple[int, int], large: tuple[int, int], align_corners: bool) -> None:
    maps = torch.randn(2, 3, *small, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(maps, large, mode="bilinear", align_corners=align_corners)
    height, width = large
    for rows in (slice(0, height), slice(0, 1), slice(height - 1, height), slice(height // 3, height // 2 + 1)):
        for columns in (slice(0, width), slice(width - 2, width), slice(width // 4, width // 2)):
            part = upsample_part(maps, large, rows, columns, align_corners=align_corners)
            torch.testing.assert_close(part, whole[..., rows, columns], atol=2e-6, rtol=1e-5)

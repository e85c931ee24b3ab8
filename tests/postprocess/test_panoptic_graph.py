"""The graph that groups and merges gives the numbers of the functions, whatever the image; also once it is traced."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from atrous.postprocess.panoptic import Merging, find_centers, group_pixels, merge, peaks
from atrous.postprocess.panoptic_graph import PARTS, Grouping, panoptic_map

THINGS = torch.tensor([False, True, False, True, True])
KEPT = Grouping(THINGS, 0.1, 7, 200, Merging(256, 255 * 256, 30))
VOID = Grouping(THINGS, 0.1, 4, 5, Merging(1000, 7, 64, is_limit_void=True, is_thing_without_center=True))
CASES = (  # images, height, width, share of pixels that are maxima, whether offsets are whole pixels: many ties
    (1, 40, 51, 0.02, True),
    (3, 24, 20, 0.05, False),
    (2, 30, 30, 0.3, True),
    (2, 17, 9, 0.0, False),
    (1, 2, 3, 1.0, False),
    (1, 1, 1, 1.0, True),
)


def maps(seed: int, images: int, height: int, width: int, share: float, is_whole: bool) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, len(THINGS), (images, 1 + height // 6, 1 + width // 6), generator=generator)
    semantic = blocks.repeat_interleave(6, 1).repeat_interleave(6, 2)[:, :height, :width].to(torch.uint8)
    heights = torch.rand(images, 1, height, width, generator=generator)
    offset = 8 * torch.randn(images, 2, height, width, generator=generator)
    return semantic, heights.where(heights > 1 - share, 0.0), offset.round() if is_whole else offset


def by_image(drawn: tuple[Tensor, ...], how: Grouping) -> Tensor:
    (semantic, center, offset), results = drawn, []
    for classes, heights, offsets in zip(semantic.long(), center[:, 0], offset, strict=True):
        centers = find_centers(peaks(heights, threshold=how.threshold, kernel=how.kernel), top_k=how.top_k)
        instances = group_pixels(centers, offsets, how.things[classes])
        results.append(merge(classes, instances, how.things, how.merging))
    return torch.stack(results)


@pytest.mark.parametrize(("how", "case"), [*itertools.product((KEPT, VOID), CASES)])
def test_equals_the_functions(how: Grouping, case: tuple[int, int, int, float, bool]) -> None:
    for seed in range(4):
        drawn = maps(seed, *case)
        semantic, center, offset = drawn
        panoptic = panoptic_map(semantic, center, offset, how)
        assert panoptic.dtype == torch.int32
        assert torch.equal(panoptic.long(), by_image(drawn, how))


def test_the_first_of_equally_near_centers_and_the_smallest_of_equally_frequent_classes_win() -> None:
    semantic = torch.tensor([[[1, 3, 1, 1, 3]]])
    center = torch.tensor([[[[0.9, 0.0, 0.0, 0.0, 0.5]]]])
    offset = torch.zeros(1, 2, 1, 5)
    how = Grouping(THINGS, 0.1, 3, 200, Merging(10, 99))
    assert panoptic_map(semantic, center, offset, how).tolist() == [[[11, 11, 11, 12, 12]]]


def test_an_image_without_things_and_one_without_stuff() -> None:
    center, offset = torch.zeros(2, 1, 4, 4), torch.zeros(2, 2, 4, 4)
    semantic = torch.stack([torch.zeros(4, 4), torch.ones(4, 4)]).long()
    assert (panoptic_map(semantic, center, offset, KEPT) == 255 * 256).all()  # 16 pixels of stuff are too few
    assert panoptic_map(semantic[:1], center[:1], offset[:1], KEPT).shape == (1, 4, 4)
    assert panoptic_map(semantic, center, offset, VOID)[:, 0, 0].tolist() == [7, 1001]


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most elements that a tensor has had."""

    elements = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: Sequence[object] = (),
        kwargs: Any = None,  # noqa: ANN401
    ) -> object:
        result = func(*args, **(kwargs or {}))
        self.elements = max(self.elements, *(x.numel() for x in tree_leaves(result) if isinstance(x, Tensor)), 0)
        return result


def test_not_all_pixels_are_compared_with_all_centers_at_once() -> None:
    semantic, center, offset = torch.ones(1, 80, 90).long(), torch.zeros(1, 1, 80, 90), torch.zeros(1, 2, 80, 90)
    center[0, 0, ::10, ::10] = 1.0
    with Largest() as largest:  # type: ignore[no-untyped-call]
        panoptic = panoptic_map(semantic, center, offset, KEPT)
    num_pixels, num_centers = 80 * 90, 8 * 9
    assert len(set(panoptic.flatten().tolist())) == num_centers
    assert num_pixels <= largest.elements <= num_pixels * (num_centers + 1) / PARTS


class Graph(nn.Module):
    def forward(self, semantic: Tensor, center: Tensor, offset: Tensor) -> Tensor:
        return panoptic_map(semantic, center, offset, KEPT)


def test_a_graph_of_it_takes_images_of_any_size() -> None:
    axes = {name: dict.fromkeys(place, Dim.DYNAMIC) for name, place in (("semantic", (0, 1, 2)), ("center", (0, 2, 3)))}
    program = torch.export.export(
        Graph(),
        maps(0, 2, 70, 99, 0.01, False),
        dynamic_shapes={**axes, "offset": axes["center"]},
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    module = program.module(check_guards=False)
    for seed, case in enumerate(CASES):
        drawn = maps(seed, *case)
        assert torch.equal(module(*drawn).long(), by_image(drawn, KEPT))

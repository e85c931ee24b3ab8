"""DeepLab v1: the sizes of the paper's variants, and what the side branches add."""

import torch
from torch import Tensor

from tests.models.conftest import num_parameters, on_meta, random_images, small

VGG16 = 14_714_688  # its 13 convolutions
VARIANTS = ("large_fov", "7x7", "4x4")


def test_parameter_counts_are_the_papers() -> None:
    """Millions in table 2 of the paper; the same to the last one, from its layers, for 21 classes."""
    counts = {
        "large_fov": (20.5, VGG16 + (9 * 512 + 1) * 1024 + (1024 + 1) * 1024 + (1024 + 1) * 21),
        "7x7": (134.3, VGG16 + (49 * 512 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 21),
        "4x4": (65.1, VGG16 + (16 * 512 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 21),
    }
    for variant, (millions, count) in counts.items():
        assert num_parameters(on_meta("deeplab_v1", 21, variant=variant)) == count
        assert round(count / 1e6, 1) == millions


def test_every_variant_has_logits_at_stride_8() -> None:
    for variant in VARIANTS:
        for multi_scale in (False, True):
            model = on_meta("deeplab_v1", 21, variant=variant, multi_scale=multi_scale)
            for size, grid in (((65, 97), (9, 13)), ((33, 50), (5, 7)), ((1, 1), (1, 1))):
                assert model(torch.zeros(1, 3, *size, device="meta")).semantic.shape == (1, 21, *grid)


def test_side_branches_add_a_3x3_and_a_1x1_on_the_image_and_four_poolings() -> None:
    inputs = (3, 64, 128, 256, 512)
    branches = sum((9 * inp + 1) * 128 + (128 + 1) * 128 for inp in inputs)
    more, plain = (num_parameters(on_meta("deeplab_v1", 21, multi_scale=sides)) for sides in (True, False))
    assert more - plain == branches + 5 * 128 * 21


def test_side_branches_follow_fc7_in_the_order_of_their_depth() -> None:
    model = small("deeplab_v1", 2, multi_scale=True)
    outputs: dict[str, Tensor] = {}
    for name in ("image", "c1", "c2", "c3", "c4"):
        module = model.get_submodule(f"sides.{name}")
        module.register_forward_hook(lambda _, inputs, output, name=name: outputs.update({name: output}))
    model.get_submodule("classify").register_forward_pre_hook(lambda _, inputs: outputs.update(joined=inputs[0]))
    with torch.no_grad():
        model(random_images(1, 33, 41))
    joined = outputs.pop("joined")
    assert joined.shape == (1, 1024 + 5 * 128, 5, 6)
    torch.testing.assert_close(joined[:, 1024:], torch.cat(list(outputs.values()), 1))
    assert list(outputs) == ["image", "c1", "c2", "c3", "c4"]

"""The recipes of Panoptic-DeepLab against deeplab2's own: sizes of its networks, settings of its configs."""

import json
from pathlib import Path

import pytest
import torch

from atrous import data, models
from atrous.config import Config, load
from atrous.data.coco_panoptic import CATEGORIES, NUM_THINGS
from atrous.recipes import recipes

SAC = "cityscapes/panoptic_deeplab_swidernet_sac"
WEIGHTS = {  # in millions, of the original's networks: name of the recipe with its overrides
    ("cityscapes/panoptic_deeplab_resnet50",): 54.97,
    ("cityscapes/panoptic_deeplab_resnet50_beta",): 55.10,
    ("cityscapes/panoptic_deeplab_wide_resnet41",): 140.48,
    (SAC,): 144.4,
    (SAC, "model.backbone.layers=3"): 376.5,
    (SAC, "model.backbone.layers=4.5"): 536.0,
    ("coco/panoptic_deeplab_resnet50",): 55.00,
    ("coco/panoptic_deeplab_resnet50", "model.output_stride=16"): 55.00,
}
CITYSCAPES = [name for name in recipes() if name.startswith("cityscapes/panoptic_deeplab")]
COCO = [name for name in recipes() if name.startswith("coco/")]
PUBLISHED = [*CITYSCAPES, *COCO]


def recipe(name: str, *overrides: str) -> Config:
    return load(name, ["data.root=DATA", *overrides])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What label spaces are read from: COCO's JSON, here without an image."""
    path = tmp_path_factory.mktemp("coco") / "annotations" / "panoptic_train2017.json"
    path.parent.mkdir()
    categories = [
        {"id": row.raw_id, "name": name, "isthing": int(index < NUM_THINGS)}
        for index, (name, row) in enumerate(CATEGORIES.items())
    ]
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    return path.parents[1]


@pytest.mark.parametrize("call", WEIGHTS)
def test_a_network_has_as_many_weights_as_the_original(call: tuple[str, ...], root: Path) -> None:
    config = recipe(*call, f"data.root={root}")
    with torch.device("meta"):
        model = models.build(config.model, data.label_space(config.data).num_classes)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx(WEIGHTS[call], abs=0.05)


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_learns_as_the_original_does(name: str) -> None:
    """deeplab2's configs have no other optimizer, and no weight decay that takes effect."""
    config = recipe(name)
    optim, loss = config.optim, config.loss.model_dump()
    assert (optim.name, optim.weight_decay, optim.schedule, optim.power) == ("adamw", 0, "poly", 0.9)
    assert (loss["hard_pixels"], loss["center"], loss["offset"], loss["sigma"]) == (0.2, 200, 0.01, 8)
    assert (config.augment.min_scale, config.augment.scale_step, config.augment.flip) == (0.5, 0.1, 0.5)
    assert config.decode.model_dump().items() >= {"threshold": 0.1, "top_k": 400, "at_limit": "kept"}.items()


ROWS = {  # output stride, learning rate, steps, warm-up, batch, crop, largest scale, small things weigh more, kernel
    "cityscapes/panoptic_deeplab_mobilenet_v3_large": (16, 1e-3, 60000, 500, 64, (1025, 2049), 2, False, 7, 2048),
    "cityscapes/panoptic_deeplab_mobilenet_v3_small": (16, 1e-3, 60000, 0, 64, (1025, 2049), 2, False, 7, 2048),
    "cityscapes/panoptic_deeplab_resnet50": (32, 2.5e-4, 60000, 0, 8, (1025, 2049), 2, True, 13, 2048),
    "cityscapes/panoptic_deeplab_resnet50_beta": (32, 2.5e-4, 60000, 0, 32, (1025, 2049), 2, True, 13, 2048),
    "cityscapes/panoptic_deeplab_swidernet_sac": (16, 1e-4, 60000, 0, 32, (1025, 2049), 2, True, 13, 2048),
    "cityscapes/panoptic_deeplab_wide_resnet41": (16, 1e-4, 60000, 0, 32, (1025, 2049), 2, True, 13, 2048),
    "coco/panoptic_deeplab_resnet50": (32, 5e-4, 200000, 2000, 64, (641, 641), 1.5, True, 41, 4096),
    "coco/panoptic_deeplab_resnet50_beta": (32, 5e-4, 200000, 2000, 64, (641, 641), 1.5, True, 41, 4096),
}


def test_every_recipe_has_a_row_of_the_original() -> None:
    assert list(ROWS) == PUBLISHED


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_those_of_the_original(name: str) -> None:
    config = recipe(name)
    loss, decode = config.loss.model_dump(), config.decode.model_dump()
    assert (config.optim.eps, config.optim.schedule_start) == (1e-7, "first_step")
    assert ROWS[name] == (
        config.model.output_stride,
        config.optim.lr,
        config.train.steps,
        config.optim.warmup_steps,
        config.train.batch,
        config.augment.crop,
        config.augment.max_scale,
        loss["small_area"] == 4096 and loss["small_weight"] == 3,
        decode["kernel"],
        decode["stuff_area"],
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_says_whose_figures_it_quotes(name: str) -> None:
    text = recipes()[name].read_text(encoding="utf-8")
    assert "The original's figures, not ours" in text
    assert "No run of this recipe has been logged yet." in text.replace("\n# ", " ")


@pytest.mark.parametrize(("names", "num_classes", "num_things"), [(CITYSCAPES, 19, 8), (COCO, 134, 80)])
def test_classes_are_those_of_the_data(names: list[str], num_classes: int, num_things: int, root: Path) -> None:
    for name in names:
        space = data.label_space(recipe(name, f"data.root={root}").data)
        assert (space.num_classes, len(space.things)) == (num_classes, num_things)

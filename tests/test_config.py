"""Recipes, overrides and the one line that says what is wrong with them."""

import json
from pathlib import Path

import pytest
import yaml

from atrous import config
from atrous.config import Config, TrainConfig, differences, load, merge, parse_overrides, recipes, schema, to_yaml

RECIPE = "synthetic/deeplab_v3plus_tiny"
ROOTED = {"camvid", "voc", "folder", "cityscapes", "ade20k"}


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_sound_and_opens_with_its_command(name: str) -> None:
    given = ["data.root=somewhere"] if name.split("/")[0] in ROOTED else []
    assert isinstance(load(name, given), Config)
    lines = recipes()[name].read_text().splitlines()
    assert lines[0].startswith("# ")
    assert f"atrous train {name}" in "".join(lines[:4]) or name == "synthetic/demo"


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("train.stepz=3", "train.stepz: unknown key; did you mean train.steps?"),
        ("steps=4", "did you mean train.steps?"),
        ("trian.steps=4", "trian: unknown key; did you mean train?"),
        ("train.steps=abc", "train.steps=abc: a whole number is wanted"),
        ("train.steps=true", "train.steps=true: a whole number is wanted"),
        ("train.steps=2.5", "a whole number is wanted"),
        ("augment.crop=1,2,3", "augment.crop=[1, 2, 3]: wrong number of values: at most 2, got 3"),
        ("augment.crop=[1]", "augment.crop: wrong number of values, at least 2 are wanted"),
        ("augment.crop=5", "augment.crop=5: a list such as [1, 2] is wanted"),
        ("model.name=deeplab_v4", "model.name=deeplab_v4: unknown model; did you mean deeplab_v3?"),
        ("model.backbone=mobilenet_v22", "did you mean mobilenet_v2?"),
        ("data.format=vocc", "data.format=vocc: unknown format; did you mean voc?"),
        ("model.output_stride=12", "model.output_stride=12: must be 8, 16 or 32"),
        ("optim.lr=-1", "optim.lr=-1: must be greater than 0"),
        ("train", "an override has the form section.field=value"),
        ("model.depth_multiplier=0", "must be greater than 0"),
        ("augment.crop=[1,2", "augment.crop=[1,2: a list such as [1, 2] is wanted"),
        ("train.steps=@5", "train.steps=@5: a whole number is wanted"),
        ("optim.lr=*2", "optim.lr=*2: a number is wanted"),
        ("train.steps={", "train.steps={: a whole number is wanted"),
        ("evaluate.scales=inf", "evaluate.scales"),
        ("evaluate.scales=1,inf", "a finite number is wanted"),
        ("optim.lr=.nan", "a finite number is wanted"),
        ("train.optim.lr=1", "train.optim.lr: unknown key; did you mean optim.lr?"),
        ("model.decoder_strides=4,8", "model: decoder_strides (4, 8): coarsest first, such as (8, 4)"),
        ("model.decoder_strides=4", "model.decoder_strides=4: a list such as [1, 2] is wanted"),
        ("model.name=deeplab_v1", "model.backbone=mobilenet_v2: must be 'vgg16'"),
        ("model.image_pyramid=1,-1", "model.image_pyramid.1=-1: must be greater than 0"),
        ("evaluate.mode=canvases", "must be 'whole', 'sliding' or 'canvas'"),
        ("evaluate.crf=v3", "evaluate.crf=v3: must be 'v1', "),
        ("evaluate.window=0,65", "evaluate.window.0=0: must be greater than 0"),
    ],
)
def test_a_wrong_override_is_explained_in_one_line(override: str, reason: str) -> None:
    with pytest.raises(ValueError) as error:
        load(RECIPE, [override])
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cell", "line"),
    [
        ("[{kernel: 2}]", "model.cell.0.kernel=2: must be 1 or 3 (on the command line)"),
        ("[{}, {rate: [0, 1]}]", "model.cell.1.rate.0=0: must be greater than 0 (on the command line)"),
        ("[{opp: conv}]", "model.cell.0.opp: unknown key (on the command line)"),
        ("[]", "model.cell=[]: wrong number of values: at least 1, got 0 (on the command line)"),
    ],
)
def test_what_is_wrong_inside_a_list_is_found_where_it_was_given(cell: str, line: str) -> None:
    with pytest.raises(ValueError) as error:
        load(RECIPE, ["model.name=dense_prediction_cell", f"model.cell={cell}"])
    assert str(error.value) == line


def test_a_cell_is_read_from_text() -> None:
    first = '{"op": "conv", "kernel": 3, "rate": [1, 6], "input": -1}'
    cell = f'[{first}, {{"op": "pyramid_pooling", "grid_size": [2, 4], "input": 0}}]'
    found = load(RECIPE, ["model.name=dense_prediction_cell", f"model.cell={cell}"]).model.model_dump()["cell"]
    assert [(branch["op"], branch["rate"], branch["grid_size"], branch["input"]) for branch in found] == [
        ("conv", (1, 6), (1, 1), -1),
        ("pyramid_pooling", (1, 1), (2, 4), 0),
    ]


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(FileNotFoundError, match=r"did you mean synthetic/deeplab_v3plus_tiny\?"):
        load("synthetic/deeplab_v3plus_tinny")


def test_overrides_lie_over_the_file_and_the_file_over_its_base(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: {RECIPE}\ntrain: {{steps: 7, batch: 3}}\n")
    found = load(str(path), ["train.batch=5", "train.ema=none"])
    assert (found.train.steps, found.train.batch, found.train.ema) == (7, 5, None)
    assert found.model == load(RECIPE).model


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1, 2]", "sections such as"),
        ("train: {steps: [", "not a YAML file"),
        ("train: {steps: 2024-99-99}", r"mine\.yaml: not a YAML file"),
        ("base: nowhere/x", "no such recipe"),
        (f"base: {RECIPE}\nmodel: {{name: [a]}}", "unknown model"),
        (f"base: {RECIPE}\ndata: {{format: {{a: 1}}}}", "unknown format"),
        (f"base: {RECIPE}\nmodel: 5", r"model=5: .*mine\.yaml"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=reason):
        load(str(path))


@pytest.mark.parametrize("base", ["{folder}/mine.yaml", "mine.yaml", "../{folder.name}/mine.yaml"])
def test_a_base_that_leads_back_to_itself_is_refused(tmp_path: Path, base: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: {base.format(folder=tmp_path)}\n")
    with pytest.raises(ValueError, match="leads back to itself"):
        load(str(path))


def test_a_base_is_a_recipe_or_lies_beside_the_file_or_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("both.yaml").write_text("train: {steps: 1}\n")
    Path("only_here.yaml").write_text(f"base: {RECIPE}\ntrain: {{steps: 2}}\n")
    (tmp_path / "deep" / "both.yaml").write_text(f"base: {RECIPE}\ntrain: {{steps: 3}}\n")
    mine = tmp_path / "deep" / "mine.yaml"
    for base, steps in (("both.yaml", 3), ("only_here.yaml", 2), (RECIPE, load(RECIPE).train.steps)):
        mine.write_text(f"base: {base}\n")
        assert load("../deep/mine.yaml").train.steps == steps


def test_a_mapping_of_names_replaces_that_of_the_base(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        f"base: {RECIPE}\ndata: {{format: folder, root: x, names: {{0: a, 1: b, 2: c}}}}\n"
    )
    (tmp_path / "mine.yaml").write_text("base: base.yaml\ndata: {names: {0: road, 7: sky}}\n")
    found = load(str(tmp_path / "mine.yaml")).data
    assert found.names == {0: "road", 7: "sky"}
    assert found.root == Path("x")


def test_a_config_survives_yaml(tmp_path: Path) -> None:
    pyramid = [
        "model.image_pyramid=0.5,1",
        "model.decoder_strides=8,4",
        "model.pooling_window=65,65",
        "evaluate.crf=v1",
    ]
    found = load(RECIPE, ["augment.crop=33,49", "loss.class_weights=[1,2,3,4,5,6,7,8]", "optim.lr=1e-3", *pyramid])
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(found))
    assert load(str(path)) == found
    assert list(differences(found, load(str(path)))) == []


def test_differences_name_the_fields() -> None:
    assert list(differences(load(RECIPE), load(RECIPE, ["train.steps=9", "model.output_stride=8"]))) == [
        ("model.output_stride", 16, 8),
        ("train.steps", 1200, 9),
    ]


def test_another_kind_of_section_keeps_only_what_it_knows() -> None:
    found = load(RECIPE, ["data.format=voc", "data.root=x", "model.name=deeplab_v3"])
    assert found.data.format == "voc"
    assert found.model.backbone == "mobilenet_v2"
    assert "decoder_channels" not in type(found.model).model_fields


def test_merge_goes_into_sections() -> None:
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}, "d": 4}) == {"a": {"b": 1, "c": 3}, "d": 4}


def test_later_overrides_win() -> None:
    assert parse_overrides(["train.steps=1", "train.steps=2"]) == {"train": {"steps": "2"}}


def test_the_schema_knows_every_field_and_recipe() -> None:
    found = json.dumps(schema())
    for field in TrainConfig.model_fields:
        assert f'"{field}"' in found
    assert "deeplab_v3plus" in found
    assert "camvid" in found


def test_values_in_a_file_are_typed_by_the_field(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: {RECIPE}\noptim: {{lr: 1e-3}}\ntrain: {{steps: yes}}\n")
    with pytest.raises(ValueError, match=r"train\.steps=true: a whole number is wanted \(in .*mine\.yaml\)"):
        load(str(path))
    path.write_text(f"base: {RECIPE}\noptim: {{lr: 1e-3}}\n")
    assert load(str(path)).optim.lr == 0.001
    assert yaml.safe_load(config.to_yaml(load(str(path))))["optim"]["lr"] == 0.001

"""Recipes, overrides and the one line that says what is wrong with them."""

import json
from pathlib import Path

import pytest
import yaml

from atrous import config
from atrous.backbones import BACKBONES, PREFIXES
from atrous.config import Config, differences, load, merge, parse_overrides, recipes, schema, to_yaml
from atrous.errors import ConfigError
from atrous.models import MODELS
from atrous.train_config import TrainConfig

RECIPE = "synthetic/deeplab_v3plus_tiny"
ROOTED = {"camvid", "voc", "folder", "cityscapes", "ade20k", "pennfudan", "coco"}


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_valid_and_opens_with_a_title_and_its_command(name: str) -> None:
    root = ["data.root=somewhere"] if name.split("/")[0] in ROOTED else []
    assert isinstance(load(name, root), Config)
    title, command, *_ = recipes()[name].read_text().splitlines()
    assert title.startswith("# ")
    assert command.startswith(f"# atrous train {name}")


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("train.stepz=3", "train.stepz: unknown key; did you mean train.steps?"),
        ("steps=4", "did you mean train.steps?"),
        ("trian.steps=4", "trian.steps: unknown key; did you mean train.steps?"),
        ("train.steps=abc", "train.steps=abc: must be a whole number"),
        ("train.steps=true", "train.steps=true: must be a whole number"),
        ("train.steps=2.5", "must be a whole number"),
        ("augment.crop=1,2,3", "augment.crop=[1, 2, 3]: wrong number of values: at most 2, got 3"),
        ("augment.crop=[1]", "augment.crop: wrong number of values: at least 2"),
        ("augment.crop=5", "augment.crop=5: must be a list such as [1, 2]"),
        ("model.name=deeplab_v4", "model.name=deeplab_v4: unknown model; did you mean deeplab_v3?"),
        ("model.backbone=mobilenet_v22", "model.backbone=mobilenet_v22: unknown backbone; did you mean mobilenet_v2?"),
        ("data.format=vocc", "data.format=vocc: unknown format; did you mean voc?"),
        ("model.output_stride=12", "model.output_stride=12: must be 8, 16 or 32"),
        ("optim.lr=-1", "optim.lr=-1: must be greater than 0"),
        ("train", "an override has the form section.field=value"),
        ("model.backbone.depth_multiplier=0", "model.backbone.depth_multiplier=0: must be greater than 0"),
        ("augment.crop=[1,2", "augment.crop=[1,2: must be a list such as [1, 2]"),
        ("train.steps=@5", "train.steps=@5: must be a whole number"),
        ("optim.lr=*2", "optim.lr=*2: must be a number"),
        ("train.steps={", "train.steps={: must be a whole number"),
        ("evaluate.scales=inf", "evaluate.scales"),
        ("evaluate.scales=1,inf", "must be a finite number"),
        ("optim.lr=.nan", "must be a finite number"),
        ("train.optim.lr=1", "train.optim.lr: unknown key; did you mean optim.lr?"),
        ("model.decoder.strides=4,8", "model.decoder: strides must be in descending order, such as (8, 4), got (4, 8)"),
        ("model.decoder.strides=4", "model.decoder.strides=4: must be a list such as [1, 2]"),
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
def test_an_error_inside_a_list_is_located(cell: str, line: str) -> None:
    with pytest.raises(ValueError) as error:
        load(RECIPE, ["model.name=dense_prediction_cell", f"model.cell={cell}"])
    assert str(error.value) == line


def test_a_cell_is_read_from_text() -> None:
    first = '{"op": "conv", "kernel": 3, "rate": [1, 6], "input": -1}'
    cell = f'[{first}, {{"op": "pyramid_pooling", "grid_size": [2, 4], "input": 0}}]'
    branches = load(RECIPE, ["model.name=dense_prediction_cell", f"model.cell={cell}"]).model.model_dump()["cell"]
    assert [(branch["op"], branch["rate"], branch["grid_size"], branch["input"]) for branch in branches] == [
        ("conv", (1, 6), (1, 1), -1),
        ("pyramid_pooling", (1, 1), (2, 4), 0),
    ]


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(FileNotFoundError, match=r"did you mean synthetic/deeplab_v3plus_tiny\?"):
        load("synthetic/deeplab_v3plus_tinny")


def test_overrides_lie_over_the_file_and_the_file_over_its_base(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: {RECIPE}\ntrain: {{steps: 7, batch: 3}}\n")
    experiment = load(str(path), ["train.batch=5", "train.ema=none"])
    assert (experiment.train.steps, experiment.train.batch, experiment.train.ema) == (7, 5, None)
    assert experiment.model == load(RECIPE).model


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1, 2]", "sections such as"),
        ("train: {steps: [", "not YAML"),
        (
            f"base: {RECIPE}\ntrain: {{steps: 2024-99-99}}",
            r"train\.steps=2024-99-99: must be a whole number .*mine\.yaml",
        ),
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


def test_a_base_is_a_recipe_or_a_file_beside_this_one_or_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    experiment = load(str(tmp_path / "mine.yaml")).data
    assert experiment.names == {0: "road", 7: "sky"}
    assert experiment.root == Path("x")


def test_a_config_survives_yaml(tmp_path: Path) -> None:
    pyramid = [
        "model.image_pyramid=0.5,1",
        "model.decoder.strides=8,4",
        "model.aspp.pooling_window=65,65",
        "loss.weights.auxiliary=0.2",
        "evaluate.crf=v1",
    ]
    experiment = load(RECIPE, ["augment.crop=33,49", "loss.class_weights=[1,2,3,4,5,6,7,8]", "optim.lr=1e-3", *pyramid])
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(experiment))
    assert load(str(path)) == experiment
    assert list(differences(experiment, load(str(path)))) == []


def test_differences_name_the_fields() -> None:
    assert list(differences(load(RECIPE), load(RECIPE, ["train.steps=9", "model.output_stride=8"]))) == [
        ("model.output_stride", 16, 8),
        ("train.steps", 1200, 9),
    ]
    assert list(differences(load(RECIPE), load(RECIPE, ["model.backbone=resnet50", "model.aspp.channels=3"]))) == [
        ("model.backbone.name", "mobilenet_v2", "resnet50"),
        ("model.backbone.depth_multiplier", 0.35, None),
        ("model.backbone.program", "tensorflow", None),
        ("model.aspp.channels", 64, 3),
    ]


def test_another_kind_of_section_keeps_only_the_settings_that_it_knows() -> None:
    experiment = load(RECIPE, ["data.format=voc", "data.root=x", "model.name=deeplab_v3"])
    assert experiment.data.format == "voc"
    assert experiment.model.backbone == load(RECIPE).model.backbone
    assert "decoder" not in type(experiment.model).model_fields


def test_merge_goes_into_sections_and_the_sections_within() -> None:
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}, "d": 4}) == {"a": {"b": 1, "c": 3}, "d": 4}
    assert merge({"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"d": 3}}}) == {"a": {"b": {"c": 1, "d": 3}}}
    assert merge({"a": {"b": {0: "x", 1: "y"}}}, {"a": {"b": {0: "z"}}}) == {"a": {"b": {0: "z"}}}


# ---- sections within sections

MOBILENET, RESNET = "model.backbone=mobilenet_v3_large_seg", "model.backbone=resnet50s"
HALF = "model.backbone.depth_multiplier=0.5"


@pytest.mark.parametrize(
    ("overrides", "backbone"),
    [
        ((), {"name": "mobilenet_v2", "depth_multiplier": 0.35}),
        ((RESNET,), {"name": "resnet50s"}),
        ((HALF,), {"name": "mobilenet_v2", "depth_multiplier": 0.5}),
        ((MOBILENET,), {"name": "mobilenet_v3_large_seg", "depth_multiplier": 0.35}),
        ((MOBILENET, HALF), {"name": "mobilenet_v3_large_seg", "depth_multiplier": 0.5}),
        ((HALF, MOBILENET), {"name": "mobilenet_v3_large_seg", "depth_multiplier": 0.5}),
        ((RESNET, MOBILENET), {"name": "mobilenet_v3_large_seg", "depth_multiplier": 0.35}),
        (
            ("model.backbone={name: resnet50, multi_grid: [1, 2, 4]}", "model.backbone.bounded=true"),
            {"name": "resnet50", "bounded": True, "multi_grid": (1, 2, 4)},
        ),
        (
            ("model.backbone.multi_grid=1,2,4", "model.backbone.name=resnet50"),
            {"name": "resnet50", "multi_grid": (1, 2, 4)},
        ),
    ],
)
def test_a_backbone_is_named_and_set_in_any_order(overrides: tuple[str, ...], backbone: dict[str, object]) -> None:
    chosen = load(RECIPE, overrides).model.backbone
    assert {"name": chosen.name, **chosen.model_dump(exclude_defaults=True)} == backbone


def test_settings_within_sections_come_from_the_command_line_and_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"base: {RECIPE}\n"
        "model: {backbone: {depth_multiplier: 0.5}, aspp: {channels: 32}, decoder: {strides: [8, 4]}}\n"
        "loss: {weights: {auxiliary: 0.1, presence: 0.3}}\n"
    )
    config = load(str(path), ["model.aspp.rates=6,12,18", "loss.weights.auxiliary=0.2"])
    settings = config.model.model_dump()
    assert settings["backbone"]["depth_multiplier"] == 0.5
    assert (settings["aspp"]["channels"], settings["aspp"]["rates"]) == (32, (6, 12, 18))
    assert (settings["decoder"]["strides"], settings["decoder"]["channels"]) == ((8, 4), 64)
    assert config.loss.model_dump()["weights"] == {"auxiliary": 0.2, "presence": 0.3}


@pytest.mark.parametrize("backbone", ["resnet_small", "{name: resnet_small}"])
def test_another_family_drops_what_it_does_not_know_of_the_recipe_below(tmp_path: Path, backbone: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: {RECIPE}\nmodel: {{backbone: {backbone}}}\n")
    assert load(str(path)).model.backbone.model_dump(exclude_defaults=True) == {"name": "resnet_small"}
    path.write_text(f"base: {RECIPE}\nmodel: {{backbone: {{name: resnet_small, depth_multiplier: 0.5}}}}\n")
    with pytest.raises(ConfigError, match=r"model\.backbone\.depth_multiplier: unknown key"):
        load(str(path))


def test_a_backbone_without_a_name_is_the_models_default(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("model: {name: deeplab_v3, backbone: {depth_multiplier: 0.5}}\ndata: {format: synthetic}\n")
    assert load(str(path)).model.backbone.name == "mobilenet_v2"
    with pytest.raises(ConfigError, match=r"did you mean model\.backbone\.depth_multiplier\?"):
        load(str(path), ["model.backbone.dept_multiplier=1"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([RESNET, HALF], "model.backbone.depth_multiplier: unknown key; known: RESNETS"),
        ([HALF, RESNET], "model.backbone.depth_multiplier: unknown key; known: RESNETS"),
        (["model.backbone.dept_multiplier=1"], "unknown key; did you mean model.backbone.depth_multiplier?"),
        ([RESNET, "model.backbone.multigrid=1,2,4"], "unknown key; did you mean model.backbone.multi_grid?"),
        (["model.backbone.dropout=0"], "model.backbone.dropout: unknown key; did you mean model.aspp.dropout or"),
        (["model.aspp.chanels=8"], "model.aspp.chanels: unknown key; did you mean model.aspp.channels?"),
        ([RESNET, "model.backbone.multi_grid=1,2"], "model.backbone: multi_grid (1, 2): the last stage of resnet50s"),
        (["model.backbone=zzz"], "model.backbone=zzz: unknown backbone; known: mobilenet_v2, mobilenet_v3_large_seg"),
        (["model.backbone={"], "model.backbone={: unknown backbone"),
        (["model.aspp=5"], "model.aspp=5: must be a mapping of settings"),
        (["model.output_stride=32", "model.backbone=vgg16"], "model: vgg16 has output_stride 8, not 32"),
    ],
)
def test_a_wrong_setting_within_a_section_is_explained(overrides: list[str], message: str) -> None:
    known = "model.backbone.name, model.backbone.bounded, model.backbone.multi_grid"
    with pytest.raises(ConfigError) as error:
        load(RECIPE, overrides)
    assert message.replace("RESNETS", known) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "today"),
    [
        (["model.depth_multiplier=1"], "did you mean model.backbone.depth_multiplier?"),
        (["model.aspp_channels=8"], "did you mean model.aspp.channels?"),
        (["model.name=deeplab_v3", "model.aspp_channels=8"], "did you mean model.aspp.channels?"),
        (["model.name=lraspp", "model.aspp_channels=8"], "did you mean model.head_channels?"),
        (["model.decoder_channels=8"], "did you mean model.decoder.channels?"),
        (["model.low_level_channels=8"], "did you mean model.decoder.low_level_channels?"),
        (["model.rates=2,4"], "did you mean model.aspp.rates?"),
        (["model.separable=false"], "did you mean model.aspp.separable?"),
        (["model.bounded=true"], "did you mean model.backbone.bounded?"),
        (
            [RESNET, "model.depth_multiplier=1"],
            "known: model.backbone.name, model.backbone.bounded, model.backbone.multi",
        ),
        (["loss.auxiliary=0.2"], "did you mean loss.weights.auxiliary?"),
        (["loss.cascade=0.2,0.4"], "did you mean loss.weights.cascade_0?"),
    ],
)
def test_a_flat_name_of_format_1_is_refused_with_its_name_of_today(overrides: list[str], today: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(RECIPE, overrides)
    key = overrides[-1].partition("=")[0]
    assert f"{key}: unknown key; {today}" in str(error.value)


def test_later_overrides_win() -> None:
    assert parse_overrides(["train.steps=1", "train.steps=2"]) == {"train": {"steps": "2"}}


def test_the_schema_knows_every_field_and_recipe() -> None:
    text = json.dumps(schema())
    for field in TrainConfig.model_fields:
        assert f'"{field}"' in text
    assert "deeplab_v3plus" in text
    assert "camvid" in text


def test_the_schema_takes_a_backbone_by_name_or_with_its_settings() -> None:
    tree = schema()
    configs = {part["properties"].get("name", {}).get("const"): part for part in tree["$defs"].values()}
    for name in MODELS.keys() - {"deeplab_v1"}:  # which has one backbone
        by_name, by_settings, text, *others = configs[name]["properties"]["backbone"]["anyOf"]
        assert by_name["enum"] == list(BACKBONES)
        assert text == {"type": "string"}  # such as timm:resnet18
        assert len(others) == len(PREFIXES) == 1
        assert by_settings["discriminator"]["mapping"].keys() == BACKBONES.keys()


def test_values_in_a_file_are_typed_by_the_field(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: {RECIPE}\noptim: {{lr: 1e-3}}\ntrain: {{steps: yes}}\n")
    with pytest.raises(ValueError, match=r"train\.steps=yes: must be a whole number \(in .*mine\.yaml\)"):
        load(str(path))
    path.write_text(f"base: {RECIPE}\noptim: {{lr: 1e-3}}\n")
    assert load(str(path)).optim.lr == 0.001
    assert yaml.safe_load(config.to_yaml(load(str(path))))["optim"]["lr"] == 0.001


def test_the_yaml_of_a_dataset_is_answered_with_the_command(tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_text("path: cracks\ntrain: images/train\nval: images/val\nnames: {0: crack}\n")
    with pytest.raises(ConfigError) as error:
        load(str(path))
    assert str(error.value) == (
        f"{path} describes a dataset, not an experiment; if its labels are masks: atrous train folder/deeplab_v3plus "
        f"data.root={tmp_path}/cracks"
    )


# ---- YAML that isn't as it should be


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "mine.yaml: must be a mapping of sections such as `train:`, got an empty file"),
        ("[a]", "got a list"),
        ("5", "got a number"),
        ("train: {steps: 1}\ntrain: {batch: 2}", "mine.yaml: line 2: 'train' is given twice, first in line 1"),
        ("train: {steps: 1}\ntrain.steps: 2", "mine.yaml: train.steps is given twice"),
        ("model: {backbone: {name: resnet50}}\nmodel.backbone: resnet18", "model.backbone is given twice"),
        ("1: x", "mine.yaml: 1: unknown key; it must be a name such as train"),
        (f"base: {RECIPE}\ntrain: {{1: 5}}", "train.1=1: a key must be a name"),
        (f"base: {RECIPE}\nmodel: {{backbone: {{1: 2}}}}", "model.backbone.1=1: a key must be a name"),
        (f"base: {RECIPE}\nsteps: 3", "steps: unknown key; did you mean train.steps?"),
        (f"base: {RECIPE}\nyes: 3", "yes: unknown key; known: model, data, "),
        (f"base: {RECIPE}\ntrain..steps: 3", "train..steps: unknown key; did you mean train.steps?"),
        ("base: [a]", 'mine.yaml: base=["a"]: must be the name of a recipe or the path of a YAML file'),
        ("base: 5", "mine.yaml: base=5: must be the name of a recipe"),
        ("base: nowhere", "mine.yaml: base: no such recipe or YAML file: nowhere"),
        ("model: {decoder: 5}", "model.name is missing; known: fcn, "),
        (f"base: {RECIPE}\ntrain: {{steps: 1e400}}", "train.steps=Infinity: must be a finite number"),
        (f"base: {RECIPE}\ntrain: {{steps: 1e30}}", "train.steps=1e+30: must be a whole number"),
    ],
)
def test_yaml_that_cannot_be_meant_is_refused_in_one_line(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises((ConfigError, FileNotFoundError)) as error:
        load(str(tmp_path / "mine.yaml"))
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "train.steps: 7\nmodel.backbone.depth_multiplier: 0.5\n",
        "train: {batch: 3}\ntrain.steps: 7\nmodel: {backbone.depth_multiplier: 0.5}\n",
        "train: {steps: 7}\r\nmodel:\r\n  backbone: {depth_multiplier: 5e-1}\r\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_dotted_keys_and_files_of_windows_are_understood(tmp_path: Path, text: str, encoding: str) -> None:
    (tmp_path / "mine.yaml").write_bytes(f"base: {RECIPE}\n{text}".encode(encoding))
    experiment = load(str(tmp_path / "mine.yaml"))
    assert experiment.train.steps == 7
    assert experiment.model.backbone.model_dump()["depth_multiplier"] == 0.5


def test_names_with_dots_stay_whole(tmp_path: Path) -> None:
    data = "{format: folder, names: [a.b, c], colors: {a.b: [0, 0, 0], c: [1, 1, 1]}}"
    (tmp_path / "mine.yaml").write_text(f"base: {RECIPE}\ndata: {data}\n")
    assert load(str(tmp_path / "mine.yaml")).data.model_dump()["colors"] == {"a.b": (0, 0, 0), "c": (1, 1, 1)}


@pytest.mark.timeout(60)  # it takes milliseconds
@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"k{number}: 1" for number in range(10_000)),
        "data: {format: folder, names: [" + "1," * 10_000 + "]}",
        "data: {format: folder, names: {" + ",".join(f"a{number}: b" for number in range(10_000)) + "}}",
        "model: {name: " + "x" * 100_000 + "}",
        '"' + "x" * 500 + '": 1',
    ],
)
def test_thousands_of_mistakes_are_one_short_line_at_once(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"base: {RECIPE}\n{text}\n")
    with pytest.raises(ConfigError) as error:
        load(str(tmp_path / "mine.yaml"))
    assert len(str(error.value)) < 400

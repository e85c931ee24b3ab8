"""A training that is initialised from another model: which weights are reused, what is reported, what is refused."""

import io
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from rich.console import Console
from torch import Tensor

import atrous
from atrous import cli, run_state, segmenter, train
from atrous.data.label_space import LabelSpace, numbered_names
from atrous.errors import ModelFileError
from atrous.interrupt import Interrupted
from atrous.models import MODELS, Model, build
from atrous.reuse import Part, Reused, reuse
from atrous.run_folder import RunFolder
from atrous.run_opening import Resume
from atrous.train_config import TrainConfig
from tests.conftest import TINY
from tests.convert.readers.writers import write_checkpoint
from tests.reference.tf_deeplab import checkpoint
from tests.runs import QUIET, Tiny, assert_same, stop_after, weights

RECIPE = "synthetic/deeplab_v3plus_tiny"
MOBILENET = {"name": "mobilenet_v2", "depth_multiplier": 0.1}
SMALL: dict[str, Any] = {
    "aspp": {"channels": 8, "rates": (2, 4, 6)},
    "decoder": {"channels": 8, "low_level_channels": 4},
    "rates": (2, 4, 6),  # of deeplab_v2
}


def network(num_classes: int = 8, *, name: str = "deeplab_v3plus", seed: int = 0, **fields: object) -> Model:
    """The tiny recipe's network, or one like it."""
    torch.manual_seed(seed)
    config = MODELS[name].Config
    sections = {key: value for key, value in SMALL.items() if key in config.model_fields}
    return build(config.model_validate({"backbone": MOBILENET, **sections, **fields}), num_classes)


def saved(model: Model, path: Path) -> str:
    segmenter.of_model(model, LabelSpace(names=numbered_names(model.num_classes))).save(path)
    return str(path)


@pytest.fixture
def source(tmp_path: Path) -> str:
    return saved(network(seed=1), tmp_path / "source.safetensors")


def state_of(path: str) -> dict[str, Tensor]:
    return dict(atrous.load(path).model.state_dict())


def assert_reused(model: Model, fresh: Model, done: Reused) -> None:
    """Weights that are reported as reused are the source's; those reported as fresh are those of `fresh`."""
    state, random, source = model.state_dict(), fresh.state_dict(), state_of(done.source)
    assert sorted([*done.reused, *done.fresh]) == sorted(state)
    assert sorted([*done.reused, *done.unused]) == sorted(source)
    assert all(torch.equal(state[name], source[name]) for name in done.reused)
    assert all(torch.equal(state[name], random[name]) for name in done.fresh)


def parts(names: list[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


# ---- which


ALL = {"backbone", "aspp", "decoder", "classify", "shift", "scale"}


FRESH: dict[Part, set[str]] = {
    "all": set(),
    "all_but_logits": {"classify"},
    "backbone": {"aspp", "decoder", "classify"},
}


def test_the_part_is_reused_and_the_rest_is_fresh(source: str) -> None:
    for part, fresh in FRESH.items():
        model = network()
        done = reuse(model, source, part)
        assert_reused(model, network(), done)
        assert parts(done.fresh) == parts(done.unused) == fresh
        assert parts(done.reused) == ALL - fresh


def test_other_classes_need_other_logits(source: str) -> None:
    some: tuple[Part, ...] = ("all_but_logits", "backbone")
    for part in some:
        model = network(3)
        assert_reused(model, network(3), reuse(model, source, part))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("lraspp", {"backbone": "mobilenet_v3_small_seg"}),
        ("deeplab_v3plus", {"decoder": {**SMALL["decoder"], "logits": True, "merge": "sum"}}),
    ],
)
def test_a_decoder_that_computes_the_logits_counts_as_them(name: str, fields: dict[str, Any], tmp_path: Path) -> None:
    path = saved(network(5, name=name, seed=1, **fields), tmp_path / "source.safetensors")
    model = network(3, name=name, **fields)
    done = reuse(model, path, "all_but_logits")
    assert_reused(model, network(3, name=name, **fields), done)
    assert parts(done.fresh) == {"decoder"}
    assert "aspp" in parts(done.reused)


def test_another_head_on_the_same_backbone(source: str) -> None:
    model = network(3, name="deeplab_v2")
    done = reuse(model, source, "backbone")
    assert_reused(model, network(3, name="deeplab_v2"), done)
    assert parts(done.unused) == {"aspp", "decoder", "classify"}


def test_a_classifier_has_a_backbone_to_reuse(tmp_path: Path) -> None:
    path = saved(network(4, name="image_classifier", head_channels=16, seed=1), tmp_path / "imagenet.safetensors")
    model = network()
    assert parts(reuse(model, path, "backbone").unused) == {"widen", "classify"}


def test_the_normalisation_comes_with_the_backbone(tmp_path: Path) -> None:
    other = network(seed=1)
    other.shift.fill_(100)
    other.scale.fill_(50)
    path = saved(other, tmp_path / "source.safetensors")
    for part in get_args(Part):
        model = network()
        done = reuse(model, path, part)
        assert {"shift", "scale"} <= set(done.reused)
        assert model.mean == model.facts.mean == (100, 100, 100)
        assert model.scale.flatten().tolist() == [50, 50, 50]


def test_statistics_are_reused_and_the_weights_are_still_trained(tmp_path: Path) -> None:
    other = network(seed=1).train()
    with torch.no_grad():
        other(torch.randint(0, 256, (2, 3, 33, 33)))
    model = network()
    reuse(model, saved(other, tmp_path / "source.safetensors"), "all")
    assert int(model.get_buffer("backbone.stem.norm.num_batches_tracked")) == 1
    assert torch.equal(
        model.get_buffer("backbone.stem.norm.running_mean"), other.get_buffer("backbone.stem.norm.running_mean")
    )
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in model.parameters())


def test_a_checkpoint_of_another_program_is_converted(tmp_path: Path) -> None:
    other, random = network(seed=1), network().state_dict()
    write_checkpoint(tmp_path / "model.ckpt", checkpoint(other))
    some: dict[Part, set[str]] = {"all": ALL, "backbone": {"backbone", "shift", "scale"}}
    for part, reused in some.items():
        model = network()
        done = reuse(model, str(tmp_path / "model.ckpt"), part)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name] if name in done.reused else random[name]), name
        assert parts(done.reused) == reused


def test_an_imagenet_checkpoint_gives_its_backbone(tmp_path: Path) -> None:
    other = network(4, name="image_classifier", head_channels=16, seed=1)
    write_checkpoint(tmp_path / "mobilenet.ckpt", checkpoint(other))
    model = network()
    reuse(model, str(tmp_path / "mobilenet.ckpt"), "backbone")
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, other.backbone.state_dict()[name]), name


# ---- what is reported


def test_a_line_describes_what_was_reused(source: str) -> None:
    state, backbone = network().state_dict(), network().backbone.state_dict()
    assert reuse(network(), source, "all").describe() == (
        f"initialised from {source}: {len(state)} weights (shift, scale, backbone, aspp, decoder, classify); "
        "none is random"
    )
    assert reuse(network(3), source, "all_but_logits").describe() == (
        f"initialised from {source}: {len(state) - 2} weights (shift, scale, backbone, aspp, decoder); "
        "random: classify; unused: classify"
    )
    assert reuse(network(name="deeplab_v3"), source, "backbone").describe() == (
        f"initialised from {source}: {len(backbone) + 2} weights (shift, scale, backbone); "
        "random: aspp, classify; unused: aspp, classify, decoder"
    )


# ---- what does not fit


def refusal(model: Model, source: str, part: Part) -> str:
    """The error's line; the model stays as it was."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelFileError) as error:
        reuse(model, source, part)
    assert_same(before, model.state_dict())
    line = str(error.value)
    assert line.startswith(f"train.init={source}, train.reuse={part}: ")
    assert "\n" not in line
    return line


def test_logits_of_other_classes_do_not_fit(source: str) -> None:
    line = refusal(network(3), source, "all")
    assert "2 weights have another shape: classify.weight, classify.bias" in line
    assert line.endswith("; train.reuse=all_but_logits or train.reuse=backbone reuses less")


def test_missing_weights_are_listed(tmp_path: Path) -> None:
    path = saved(network(name="deeplab_v3", seed=1), tmp_path / "source.safetensors")
    decoder = [name for name in network().state_dict() if name.startswith("decoder.")]
    line = refusal(network(), path, "all_but_logits")
    assert f"{len(decoder)} weights are missing: {', '.join(decoder[:3])}" in line
    assert decoder[3] not in line
    assert line.endswith("; train.reuse=backbone reuses less")


def test_missing_and_misshapen_weights_are_distinguished(tmp_path: Path) -> None:
    path = saved(network(name="deeplab_v3", seed=1), tmp_path / "source.safetensors")
    line = refusal(network(3), path, "all")
    assert "weights are missing: decoder." in line
    assert "; 2 weights have another shape: classify.weight" in line


@pytest.mark.parametrize("backbone", [{**MOBILENET, "depth_multiplier": 0.2}, "mobilenet_v3_small_seg"])
def test_another_backbone_does_not_fit(tmp_path: Path, backbone: object) -> None:
    path = saved(network(seed=1, backbone=backbone), tmp_path / "source.safetensors")
    for part in FRESH:  # all but "matching"
        line = refusal(network(), path, part)
        assert "the backbones differ: set model.backbone to the file's, with its settings" in line


def test_missing_and_damaged_files_are_named(source: str, tmp_path: Path) -> None:
    for name in ("none.safetensors", "none.ckpt"):
        with pytest.raises(FileNotFoundError, match=name):
            reuse(network(), str(tmp_path / name), "all")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(Path(source).read_bytes()[:5000])
    with pytest.raises(ModelFileError, match=r"broken\.safetensors: not a complete"):
        reuse(network(), str(broken), "all")


# ---- in a training


UNMOVED = ("optim.name=sgd", "optim.lr=1e-12", "train.batch_norm=frozen", "train.steps=1")


@pytest.fixture
def street(tiny: Tiny, tmp_path: Path) -> str:
    """A model for the tiny recipe's data."""
    torch.manual_seed(1)
    return saved(build(tiny().model, 8), tmp_path / "street.safetensors")


def test_a_training_is_initialised_from_them_and_reports_and_records_it(
    tiny: Tiny, street: str, tmp_path: Path
) -> None:
    console = Console(record=True, width=500, file=io.StringIO())
    config = tiny(f"train.init={street}", "train.reuse=backbone", *UNMOVED)
    run = train.train(config, tmp_path / "run", console=console)
    torch.manual_seed(config.train.seed)
    model = build(config.model, 8)
    done = reuse(model, street, "backbone")
    assert json.loads(run.reused.read_text()) == json.loads(json.dumps(done.to_tree()))
    assert done.describe() in console.export_text()
    for state in (weights(run), atrous.load(run.last).model.state_dict()):
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(state[name], tensor, atol=1e-6, rtol=0, msg=name)
    assert atrous.load(run.best).training == config


def test_a_resumed_run_does_not_read_them_again(
    tiny: Tiny, street: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(f"train.init={street}", "train.reuse=all_but_logits", "train.steps=3")
    whole = train.train(config, tmp_path / "whole", console=QUIET)
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        with pytest.raises(Interrupted):
            train.train(config, tmp_path / "parts", console=QUIET)
    record = RunFolder(tmp_path / "parts").reused.read_text()
    Path(street).unlink()
    parts = train.train(config, tmp_path / "parts", resume=True, console=QUIET)
    assert_same(weights(whole), weights(parts))
    assert parts.reused.read_text() == record


def test_without_them_no_training_begins(tiny: Tiny, street: str, tmp_path: Path) -> None:
    Path(street).unlink()
    modes: tuple[Resume, ...] = (False, "or_start")
    for mode in modes:
        with pytest.raises(FileNotFoundError, match=r"street\.safetensors"):
            train.train(tiny(f"train.init={street}"), tmp_path / "run", resume=mode, console=QUIET)
        assert not (tmp_path / "run").exists()


def test_a_run_can_be_initialised_from_another(finished: RunFolder, tiny: Tiny, tmp_path: Path) -> None:
    second = train.train(tiny(f"train.init={finished.best}", *UNMOVED), tmp_path / "second", console=QUIET)
    expected = atrous.load(finished.best).model.state_dict()
    for name, tensor in atrous.load(second.last).model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=0, msg=name)
    assert json.loads(finished.reused.read_text())["source"] == "", "it began with random weights"


def test_averaged_weights_are_initialised_from_them_too(tiny: Tiny, street: str, tmp_path: Path) -> None:
    run = train.train(tiny(f"train.init={street}", "train.ema=0.9", *UNMOVED), tmp_path / "run", console=QUIET)
    averaged = run_state.read_state(run.state)["averaged"]
    for name, tensor in state_of(street).items():
        torch.testing.assert_close(averaged[name], tensor, atol=1e-6, rtol=0, msg=name)


# ---- on the command line


def test_the_command_line(street: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    settings = (f"train.init={street}", "train.reuse=backbone", "train.steps=1")
    assert cli.run(["train", RECIPE, *TINY, *settings, "--out", str(out), "--workers", "0", "--device", "cpu"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "(shift, scale, backbone); random: aspp, decoder, classify" in printed
    assert json.loads((out / "reused.json").read_text())["source"] == street


WRONG_SETTINGS = (
    (("train.reuse=some",), "train.reuse=some: must be 'all', 'all_but_logits', 'backbone' or 'matching'"),
    (("train.init=/nowhere/m.safetensors",), "no such model file: /nowhere/m.safetensors"),
    (("train.init=/nowhere/model.ckpt",), "/nowhere/model.ckpt"),
    (("train.init={street}", "model.backbone.depth_multiplier=0.2"), "the backbones differ"),
    (("train.init={street}", "model.decoder.channels=12"), "train.reuse=backbone reuses less"),
)


def test_wrong_settings_print_a_line_and_leave_nothing(
    street: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    for overrides, reason in WRONG_SETTINGS:
        settings = [text.format(street=street) for text in overrides]
        assert cli.run(["train", RECIPE, *TINY, *settings, "--out", str(out), "--workers", "0", "--device", "cpu"]) == 2
        line = capsys.readouterr().err
        assert line.startswith("atrous: ")
        assert line.count("\n") == 1
        assert reason in line
        assert not out.exists()


def test_the_parts_of_the_config_are_those_of_reuse() -> None:
    assert get_args(TrainConfig.model_fields["reuse"].annotation) == get_args(Part)


def test_the_folder_of_a_run_is_reused_as_its_best_model(tmp_path: Path) -> None:
    saved(network(seed=1), tmp_path / "run" / "best.safetensors")
    model = network()
    reused = reuse(model, str(tmp_path / "run"), "all").reused
    assert sorted(reused) == sorted(model.state_dict())
    assert_same(model.state_dict(), state_of(str(tmp_path / "run")))

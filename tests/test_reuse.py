"""A training that begins with weights of another model: which are taken, what is said, and what can't be."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from rich.console import Console
from torch import Tensor

import atrous
from atrous import cli, run_folder, train
from atrous.config import Config, TrainConfig
from atrous.data.label_space import LabelSpace, numbered_names
from atrous.models import MODELS, Model, build
from atrous.progress import Interrupted
from atrous.reuse import Reuse, Reused, reuse
from atrous.run_folder import RunFolder
from atrous.segmenter import Segmenter
from tests.conftest import TINY
from tests.convert.readers.writers import write_checkpoint
from tests.reference.tf_deeplab import checkpoint
from tests.test_train import assert_same, stop_after, weights

Tiny = Callable[..., Config]
QUIET = Console(quiet=True)
RECIPE = "synthetic/deeplab_v3plus_tiny"
THIN = {"depth_multiplier": 0.1, "aspp_channels": 8, "decoder_channels": 8, "low_level_channels": 4, "rates": (2, 4, 6)}


def network(num_classes: int = 8, *, name: str = "deeplab_v3plus", seed: int = 0, **fields: object) -> Model:
    """The tiny recipe's network, or one like it."""
    torch.manual_seed(seed)
    config = MODELS[name].Config
    wanted = {"backbone": "mobilenet_v2", **{key: value for key, value in THIN.items() if key in config.model_fields}}
    return build(config.model_validate({**wanted, **fields}), num_classes)


def saved(model: Model, path: Path) -> str:
    Segmenter(model, LabelSpace(names=numbered_names(model.num_classes))).save(path)
    return str(path)


@pytest.fixture
def source(tmp_path: Path) -> str:
    return saved(network(seed=1), tmp_path / "source.safetensors")


def state_of(path: str) -> dict[str, Tensor]:
    return dict(atrous.load(path).model.state_dict())


def assert_reused(model: Model, fresh: Model, done: Reused) -> None:
    """What is told to be reused is the source's, what is told to be fresh is as it was drawn."""
    found, drawn, given = model.state_dict(), fresh.state_dict(), state_of(done.source)
    assert sorted([*done.reused, *done.fresh]) == sorted(found)
    assert sorted([*done.reused, *done.unused]) == sorted(given)
    assert all(torch.equal(found[name], given[name]) for name in done.reused)
    assert all(torch.equal(found[name], drawn[name]) for name in done.fresh)


def parts(names: list[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


# ---- which


ALL = {"backbone", "aspp", "decoder", "classify", "shift", "scale"}


@pytest.mark.parametrize(
    ("what", "fresh"),
    [
        ("all", set()),
        ("all_but_logits", {"classify"}),
        ("backbone", {"aspp", "decoder", "classify"}),
    ],
)
def test_what_is_asked_for_is_taken_and_the_rest_is_fresh(source: str, what: Reuse, fresh: set[str]) -> None:
    model = network()
    done = reuse(model, source, what)
    assert_reused(model, network(), done)
    assert parts(done.fresh) == parts(done.unused) == fresh
    assert parts(done.reused) == ALL - fresh


@pytest.mark.parametrize("what", ["all_but_logits", "backbone"])
def test_other_classes_want_other_logits(source: str, what: Reuse) -> None:
    model = network(3)
    assert_reused(model, network(3), reuse(model, source, what))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("lraspp", {"backbone": "mobilenet_v3_small_seg"}),
        ("deeplab_v3plus", {"decoder_logits": True, "decoder_merge": "sum"}),
    ],
)
def test_a_decoder_that_makes_the_logits_counts_as_them(name: str, fields: dict[str, Any], tmp_path: Path) -> None:
    path = saved(network(5, name=name, seed=1, **fields), tmp_path / "source.safetensors")
    model = network(3, name=name, **fields)
    done = reuse(model, path, "all_but_logits")
    assert_reused(model, network(3, name=name, **fields), done)
    assert parts(done.fresh) == {"decoder"}
    assert "aspp" in parts(done.reused)


def test_another_head_upon_the_same_backbone(source: str) -> None:
    model = network(3, name="deeplab_v2")
    done = reuse(model, source, "backbone")
    assert_reused(model, network(3, name="deeplab_v2"), done)
    assert parts(done.unused) == {"aspp", "decoder", "classify"}


def test_every_other_model_has_a_backbone_to_take(tmp_path: Path) -> None:
    path = saved(network(4, name="image_classifier", head_channels=16, seed=1), tmp_path / "imagenet.safetensors")
    model = network()
    assert parts(reuse(model, path, "backbone").unused) == {"widen", "classify"}


@pytest.mark.parametrize("what", get_args(Reuse))
def test_the_normalisation_comes_with_the_backbone(tmp_path: Path, what: Reuse) -> None:
    other = network(seed=1)
    other.shift.fill_(100)
    other.scale.fill_(50)
    model = network()
    done = reuse(model, saved(other, tmp_path / "source.safetensors"), what)
    assert {"shift", "scale"} <= set(done.reused)
    assert model.mean == (100, 100, 100)
    assert model.scale.flatten().tolist() == [50, 50, 50]


def test_statistics_come_along_and_the_weights_are_still_trained(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("what", ["all", "backbone"])
def test_a_checkpoint_of_another_program_is_converted(tmp_path: Path, what: Reuse) -> None:
    other = network(seed=1)
    write_checkpoint(tmp_path / "model.ckpt", checkpoint(other))
    model, drawn = network(), network().state_dict()
    done = reuse(model, str(tmp_path / "model.ckpt"), what)
    expected = other.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name] if name in done.reused else drawn[name]), name
    assert parts(done.reused) == (ALL if what == "all" else {"backbone", "shift", "scale"})


def test_an_imagenet_checkpoint_gives_its_backbone(tmp_path: Path) -> None:
    other = network(4, name="image_classifier", head_channels=16, seed=1)
    write_checkpoint(tmp_path / "mobilenet.ckpt", checkpoint(other))
    model = network()
    reuse(model, str(tmp_path / "mobilenet.ckpt"), "backbone")
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, other.backbone.state_dict()[name]), name


# ---- what is said


def test_a_line_tells_what_was_done(source: str) -> None:
    state, backbone = network().state_dict(), network().backbone.state_dict()
    assert reuse(network(), source, "all").describe() == (
        f"begun with {len(state)} weights of {source} (shift, scale, backbone, aspp, decoder, classify); "
        "nothing is fresh"
    )
    assert reuse(network(3), source, "all_but_logits").describe() == (
        f"begun with {len(state) - 2} weights of {source} (shift, scale, backbone, aspp, decoder); "
        "fresh: classify; not used of it: classify"
    )
    assert reuse(network(name="deeplab_v3"), source, "backbone").describe() == (
        f"begun with {len(backbone) + 2} weights of {source} (shift, scale, backbone); "
        "fresh: aspp, classify; not used of it: aspp, classify, decoder"
    )


# ---- what doesn't fit


def refused(model: Model, source: str, what: Reuse) -> str:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError) as error:
        reuse(model, source, what)
    assert_same(before, dict(model.state_dict()))
    said = str(error.value)
    assert said.startswith(f"train.init={source}, train.reuse={what}: ")
    assert "\n" not in said
    return said


def test_logits_of_other_classes_do_not_fit(source: str) -> None:
    said = refused(network(3), source, "all")
    assert "2 weights have another shape: classify.weight, classify.bias" in said
    assert said.endswith("; train.reuse=all_but_logits or train.reuse=backbone takes less")


def test_missing_weights_are_listed(tmp_path: Path) -> None:
    path = saved(network(name="deeplab_v3", seed=1), tmp_path / "source.safetensors")
    decoder = [name for name in network().state_dict() if name.startswith("decoder.")]
    said = refused(network(), path, "all_but_logits")
    assert f"{len(decoder)} weights are missing: {', '.join(decoder[:3])}" in said
    assert decoder[3] not in said
    assert said.endswith("; train.reuse=backbone takes less")


def test_missing_and_misshapen_weights_are_told_apart(tmp_path: Path) -> None:
    path = saved(network(name="deeplab_v3", seed=1), tmp_path / "source.safetensors")
    said = refused(network(3), path, "all")
    assert "weights are missing: decoder." in said
    assert "; 2 weights have another shape: classify.weight" in said


@pytest.mark.parametrize("what", get_args(Reuse))
@pytest.mark.parametrize("other", [{"depth_multiplier": 0.2}, {"backbone": "mobilenet_v3_small_seg"}])
def test_another_backbone_does_not_fit(tmp_path: Path, other: dict[str, Any], what: Reuse) -> None:
    path = saved(network(seed=1, **other), tmp_path / "source.safetensors")
    assert "the backbones differ: model.backbone, model.depth_multiplier" in refused(network(), path, what)


def test_files_that_are_not_there_or_not_whole(source: str, tmp_path: Path) -> None:
    for name in ("none.safetensors", "none.ckpt"):
        with pytest.raises(FileNotFoundError, match=name):
            reuse(network(), str(tmp_path / name), "all")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(Path(source).read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"broken\.safetensors: not a whole"):
        reuse(network(), str(broken), "all")


# ---- in a training


STILL = ("optim.name=sgd", "optim.lr=1e-12", "train.batch_norm=frozen", "train.steps=1")


@pytest.fixture
def street(tiny: Tiny, tmp_path: Path) -> str:
    """A model for the tiny recipe's data."""
    torch.manual_seed(1)
    return saved(build(tiny().model, 8), tmp_path / "street.safetensors")


def test_a_training_begins_with_them_says_so_and_remembers(tiny: Tiny, street: str, tmp_path: Path) -> None:
    console = Console(record=True, width=500, file=io.StringIO())
    config = tiny(f"train.init={street}", "train.reuse=backbone", *STILL)
    run = train.train(config, tmp_path / "run", console=console)
    torch.manual_seed(config.train.seed)
    model = build(config.model, 8)
    done = reuse(model, street, "backbone")
    assert json.loads(run.reused.read_text()) == json.loads(json.dumps(done.to_tree()))
    assert done.describe() in console.export_text()
    for found in (weights(run), dict(atrous.load(run.last).model.state_dict())):
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=0, msg=name)
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
    remembered = RunFolder(tmp_path / "parts").reused.read_text()
    Path(street).unlink()
    parts = train.train(config, tmp_path / "parts", resume=True, console=QUIET)
    assert_same(weights(whole), weights(parts))
    assert parts.reused.read_text() == remembered


def test_without_them_nothing_is_begun(tiny: Tiny, street: str, tmp_path: Path) -> None:
    Path(street).unlink()
    for is_resumed in (False, True):
        with pytest.raises(FileNotFoundError, match=r"street\.safetensors"):
            train.train(tiny(f"train.init={street}"), tmp_path / "run", resume=is_resumed, console=QUIET)
        assert not (tmp_path / "run").exists()


def test_a_run_can_begin_with_the_model_of_another(tiny: Tiny, tmp_path: Path) -> None:
    first = train.train(tiny("train.steps=1", "train.eval_every=1"), tmp_path / "first", console=QUIET)
    second = train.train(tiny(f"train.init={first.best}", *STILL), tmp_path / "second", console=QUIET)
    expected = atrous.load(first.best).model.state_dict()
    for name, tensor in atrous.load(second.last).model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=0, msg=name)
    assert not first.reused.exists()


def test_averaged_weights_begin_with_them_too(tiny: Tiny, street: str, tmp_path: Path) -> None:
    run = train.train(tiny(f"train.init={street}", "train.ema=0.9", *STILL), tmp_path / "run", console=QUIET)
    averaged = run_folder.read_state(run.state)["averaged"]
    for name, tensor in state_of(street).items():
        torch.testing.assert_close(averaged[name], tensor, atol=1e-6, rtol=0, msg=name)


# ---- on the command line


def test_the_command_line(street: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    asked = (f"train.init={street}", "train.reuse=backbone", "train.steps=1")
    assert cli.run(["train", RECIPE, *TINY, *asked, "--out", str(out), "--workers", "0", "--device", "cpu"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "(shift, scale, backbone); fresh: aspp, decoder, classify" in said
    assert json.loads((out / "reused.json").read_text())["source"] == street


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (("train.reuse=some",), "train.reuse=some: must be 'all', 'all_but_logits' or 'backbone'"),
        (("train.init=/nowhere/m.safetensors",), "no such model file: /nowhere/m.safetensors"),
        (("train.init=/nowhere/model.ckpt",), "/nowhere/model.ckpt"),
        (("train.init={street}", "model.depth_multiplier=0.2"), "the backbones differ"),
        (("train.init={street}", "model.decoder_channels=12"), "train.reuse=backbone takes less"),
    ],
)
def test_wrong_calls_print_a_line_and_leave_nothing(
    street: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: tuple[str, ...], reason: str
) -> None:
    out = tmp_path / "run"
    given = [text.format(street=street) for text in asked]
    assert cli.run(["train", RECIPE, *TINY, *given, "--out", str(out), "--workers", "0", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("atrous: ")
    assert said.count("\n") == 1
    assert reason in said
    assert not out.exists()


def test_the_configs_modes_are_those_of_reuse() -> None:
    assert get_args(TrainConfig.model_fields["reuse"].annotation) == get_args(Reuse)

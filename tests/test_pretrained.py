"""What a training begins with: ImageNet's weights by one word, a file, or random weights; and what is said of it."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import atrous
from atrous import cli, pretrained, segmenter, train
from atrous.backbones import BACKBONES, build_backbone
from atrous.backbones.contract import ImageNet, Pretrained
from atrous.backbones.mobilenet_v2 import MobileNetV2
from atrous.config import Config, load, override
from atrous.convert import zoo
from atrous.convert.recalibrate import has_folded_norms
from atrous.data.label_space import LabelSpace, numbered_names
from atrous.errors import AtrousError, ConfigError, ModelFileError
from atrous.models import MODELS, Model, build
from atrous.reuse import Donor, copied
from atrous.run_folder import RunFolder
from tests.conftest import MOBILENET, SHARED, SMALL_MODEL
from tests.convert.readers.writers import write_checkpoint
from tests.reference import torchvision
from tests.reference.tf_deeplab import checkpoint
from tests.runs import QUIET, weights

TFLITE = SHARED / "models" / "mobilenet_v2_1.0_224_quant.tflite"
has_tflite = pytest.mark.skipif(not TFLITE.exists(), reason="the published classifier is not here")
NARROW = (*SMALL_MODEL[1:], "model.backbone.depth_multiplier=0.35", "model.backbone.divisible_by=8")
QUICK = ("augment.crop=33,49", "train.batch=2", "train.steps=1", "train.eval_every=1", "optim.warmup_steps=0")
UNMOVED = ("optim.name=sgd", "optim.lr=1e-12", "train.batch_norm=frozen")
Settings = Callable[..., Config]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone, and no network."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("ATROUS_CACHE", str(folder))
    monkeypatch.setenv("ATROUS_ZOO", "http://127.0.0.1:9/nowhere")
    monkeypatch.setenv("no_proxy", "*")
    return folder


def classifier(width: float = 0.35, seed: int = 5) -> Model:
    """As TF-slim published it: widths that are multiples of 8, 1280 channels before 1001 classes."""
    torch.manual_seed(seed)
    config = MODELS["image_classifier"].Config.model_validate(
        {"backbone": {"name": "mobilenet_v2", "depth_multiplier": width, "divisible_by": 8}, "head_channels": 1280}
    )
    model = build(config, 1001)
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            tensor.uniform_(0.5, 1.5)
    return model


def archive(folder: Path, width: float = 0.35) -> Model:
    """Write what TF-slim's archive holds into `folder`, and return the model in it."""
    model, name = classifier(width), f"mobilenet_v2_{width}_224"
    parts = folder / "parts"
    parts.mkdir()
    write_checkpoint(parts / f"{name}.ckpt", checkpoint(model))
    with tarfile.open(folder / f"{name}.tgz", "w:gz") as tar:
        for path in sorted(parts.iterdir()):
            tar.add(path, f"./{path.name}")
    return model


def of_folder(root: Path, *settings: str) -> Config:
    return load("folder/deeplab_v3plus", [*NARROW, *QUICK, f"data.root={root}", *settings])


def shown(config: Config, out: Path, **options: Any) -> str:  # noqa: ANN401
    console = Console(record=True, width=1000, file=io.StringIO())
    train.train(config, out, device="cpu", console=console, **options)
    return console.export_text()


# ---- imagenet


def test_a_recipe_for_a_folder_begins_with_imagenet(folder_data: Path, cache: Path, tmp_path: Path) -> None:
    donor = archive(cache)
    config = of_folder(folder_data, *UNMOVED)
    assert config.model.pretrained == "imagenet"
    text = shown(config, tmp_path / "run")
    assert "initialised from zoo:mobilenet_v2_0.35_imagenet" in text and "random: aspp, decoder, classify" in text
    state = weights(RunFolder(tmp_path / "run"))
    for name, tensor in donor.backbone.state_dict().items():
        torch.testing.assert_close(state[f"backbone.{name}"], tensor, atol=1e-6, rtol=0, msg=name)
    assert json.loads((tmp_path / "run" / "reused.json").read_text())["source"] == "zoo:mobilenet_v2_0.35_imagenet"
    assert "imagenet, zoo:mobilenet_v2_0.35_imagenet (backbone" in (tmp_path / "run" / "report.html").read_text()
    assert (cache / "mobilenet_v2_0.35_224.tgz.json").is_file(), "the hash is remembered"


def test_a_resumed_run_fetches_nothing(folder_data: Path, cache: Path, tmp_path: Path) -> None:
    archive(cache)
    train.train(of_folder(folder_data), tmp_path / "run", device="cpu", console=QUIET)
    (cache / "mobilenet_v2_0.35_224.tgz").unlink()
    before = (tmp_path / "run" / "reused.json").read_text()
    longer = of_folder(folder_data, "train.steps=2")
    train.train(longer, tmp_path / "run", resume=True, device="cpu", console=QUIET)
    assert (tmp_path / "run" / "reused.json").read_text() == before


def test_a_model_that_was_trained_so_is_loaded_and_measured_without_them(
    folder_data: Path, cache: Path, tmp_path: Path
) -> None:
    archive(cache)
    run = train.train(of_folder(folder_data), tmp_path / "run", device="cpu", console=QUIET)
    (cache / "mobilenet_v2_0.35_224.tgz").unlink()
    model = atrous.load(run.best)
    assert model.training is not None and model.training.model.pretrained == "imagenet", "the experiment says it"
    assert model.header.model.pretrained is None, "the architecture doesn't"
    assert model.header.model == of_folder(folder_data, "model.pretrained=none").model.model_copy(
        update={"num_classes": model.header.model.num_classes}
    )
    assert cli.run(["evaluate", str(run.path), "--workers", "0", "--device", "cpu"]) == 0


def test_offline_one_line_names_the_choices(
    folder_data: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*NARROW, *QUICK, f"data.root={folder_data}", "--out", str(tmp_path / "run"), "--workers", "0"]
    assert cli.run(["train", "folder/deeplab_v3plus", *settings]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and line.startswith("atrous: model.pretrained=imagenet: http://127.0.0.1:9/nowhere/")
    for word in ("mobilenet_v2_0.35_224.tgz", str(cache), "model.pretrained=FILE", "model.pretrained=none"):
        assert word in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "mobilenet_v2", "depth_multiplier": 0.6}, ("depth_multiplier 0.35, 0.5", "divisible_by=8")),
        ({"name": "mobilenet_v2", "depth_multiplier": 0.5}, ("divisible_by=8",)),
        ({"name": "resnet50s"}, ("resnet50s", "xception_65", "mobilenet_v2", "resnet18")),
        ({"name": "mobilenet_v3_large_seg"}, ("mobilenet_v3_large_seg", "resnet_v1_50_beta")),
    ],
)
def test_where_none_are_known_it_says_what_there_is(settings: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        pretrained.imagenet(BACKBONES[settings["name"]].Config.model_validate(settings))
    line = str(error.value)
    assert "\n" not in line and "model.pretrained=none" in line
    assert all(word in line for word in words), line


def test_every_row_names_a_model_of_the_zoo_with_its_own_shapes() -> None:
    sources = []
    for name, family in BACKBONES.items():
        origin = family.Config.model_validate({"name": name}).imagenet
        if origin.source is not None and origin.source.startswith("zoo:"):
            sources.append(zoo.find(origin.source.removeprefix("zoo:")))
            options = sources[-1].options
            assert options.get("model_variant", options.get("model")) == name and sources[-1].dataset == "imagenet"
    assert len(sources) >= 11
    widths = [model for model in zoo.MODELS if model.base_url == zoo.SLIM_URL]
    for model in widths:
        width = model.options["depth_multiplier"]
        config = MobileNetV2.Config.model_validate({"depth_multiplier": width, "divisible_by": 8})
        assert config.imagenet.source == f"zoo:{model.name}"


def test_a_resnet_begins_with_torchvisions_file(
    folder_data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another file under its name is refused: torchvision's names say how the hash begins."""
    settings = ("model.backbone=resnet18", "model.pretrained=imagenet", "model.aspp.channels=8")
    config = load("folder/deeplab_v3plus", [*settings, *QUICK, *UNMOVED, f"data.root={folder_data}"])
    path, donor = cache / "resnet18-f37072fd.pth", classifier_of("resnet18")
    torch.save(donor, path)
    with pytest.raises(AtrousError, match=r"resnet18-f37072fd\.pth: has SHA-256 .* f37072fd\.\.\. was published"):
        train.train(config, tmp_path / "run", device="cpu", console=QUIET)
    assert list(cache.glob("resnet18*.pth*")) == []
    torch.save(donor, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    monkeypatch.setitem(zoo.ZOO, "resnet18_imagenet", zoo.find("resnet18_imagenet")._replace(sha256=digest))
    run = train.train(config, tmp_path / "run", device="cpu", console=QUIET)
    state = weights(run)
    assert torch.equal(state["backbone.c5.1.conv2.norm.running_var"], donor["layer4.1.bn2.running_var"])
    torch.testing.assert_close(state["backbone.stem.0.conv.weight"], donor["conv1.weight"], atol=1e-6, rtol=0)
    assert state["shift"].flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])


def classifier_of(network: str) -> dict[str, torch.Tensor]:
    """Seeded weights under torchvision's names."""
    arrays = torchvision.random_weights(torchvision.classifier(network))
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def test_a_damaged_archive_is_refused(folder_data: Path, cache: Path, tmp_path: Path) -> None:
    archive(cache)
    path = cache / "mobilenet_v2_0.35_224.tgz"
    zoo.fetch("mobilenet_v2_0.35_imagenet")  # which remembers its hash
    path.write_bytes(path.read_bytes()[:-100] + bytes(100))
    with pytest.raises(AtrousError, match=r"delete .* to fetch it again"):
        train.train(of_folder(folder_data), tmp_path / "run", device="cpu", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_another_package_may_bring_them(monkeypatch: pytest.MonkeyPatch, tiny: Settings) -> None:
    config = tiny("model.pretrained=imagenet", *MOBILENET)
    torch.manual_seed(9)
    state = build_backbone(config.model.backbone, 16).state_dict()
    origin = ImageNet(load=lambda: Pretrained(state, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)), name="timm's mobilenet")
    monkeypatch.setattr(MobileNetV2.Config, "imagenet", property(lambda self: origin))
    model = build(config.model, 8)
    reused = pretrained.begin(model, config, [], QUIET)
    assert reused.source == "timm's mobilenet" and set(reused.fresh) == {
        name for name in model.state_dict() if not name.startswith(("backbone.", "shift", "scale"))
    }
    assert model.shift.flatten().tolist() == [1, 2, 3] and model.scale.flatten().tolist() == [4, 5, 6]
    assert model.mean == (1, 2, 3)
    assert all(torch.equal(model.backbone.state_dict()[name], tensor) for name, tensor in state.items())


# ---- a file


def saved(model: Model, path: Path) -> str:
    segmenter.of_model(model, LabelSpace(names=numbered_names(model.num_classes))).save(path)
    return str(path)


def test_a_file_gives_its_backbone(tiny: Settings, tmp_path: Path) -> None:
    torch.manual_seed(1)
    donor = build(tiny().model, 5)
    config = tiny(f"model.pretrained={saved(donor, tmp_path / 'donor file.safetensors')}")
    model = build(config.model, 8)
    reused = pretrained.begin(model, config, [], QUIET)
    assert {name.partition(".")[0] for name in reused.reused} == {"backbone", "shift", "scale"}
    for name, tensor in donor.backbone.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("imagnet", ("model.pretrained=imagnet", "expected imagenet, none, or a file")),
        ("C:\\weights\\net.pth", ("C:\\weights\\net.pth",)),
        ("/nowhere/a.safetensors", ("no such model file: /nowhere/a.safetensors",)),
        ("zoo:nothing", ("nothing",)),
        (".", (".",)),
    ],
)
def test_what_is_no_file_is_named(value: str, words: tuple[str, ...], tiny: Settings, tmp_path: Path) -> None:
    with pytest.raises((AtrousError, OSError)) as error:
        train.train(tiny(f"model.pretrained={value}"), tmp_path / "run", device="cpu", console=QUIET)
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words), str(error.value)
    assert not (tmp_path / "run").exists()


def test_the_file_of_another_network_is_refused_with_what_differs(tiny: Settings, tmp_path: Path) -> None:
    donor = build(tiny("model.backbone=resnet_small").model, 5)
    config = tiny(f"model.pretrained={saved(donor, tmp_path / 'a.safetensors')}")
    with pytest.raises(ModelFileError, match=r"have another shape: backbone\..*the backbones differ"):
        pretrained.begin(build(config.model, 8), config, [], QUIET)


def test_weights_that_are_no_numbers_are_refused(tiny: Settings, tmp_path: Path) -> None:
    donor = build(tiny(*MOBILENET).model, 8)
    with torch.no_grad():
        donor.get_parameter("backbone.stem.conv.weight")[0] = float("nan")
    path = saved(donor, tmp_path / "nan.safetensors")
    for setting in (f"model.pretrained={path}", f"train.init={path}"):
        with pytest.raises(ModelFileError, match=r"NaN or infinite weights in backbone\.stem\.conv\.weight"):
            config = tiny(*MOBILENET, setting)
            pretrained.begin(build(config.model, 8), config, [], QUIET)
    with pytest.raises(ModelFileError, match=r"x: 1 weight with NaN or infinity: backbone\.stem\.conv\.weight"):
        copied(build(tiny(*MOBILENET).model, 8), Donor("timm's", "x", donor.state_dict()), "backbone")


@has_tflite
@pytest.mark.slow
def test_folded_batch_norms_are_measured_on_the_training_images(folder_data: Path, tmp_path: Path) -> None:
    settings = [*SMALL_MODEL[2:], *QUICK, f"data.root={folder_data}", f"model.pretrained={TFLITE}", *UNMOVED]
    text = shown(load("folder/deeplab_v3plus", settings), tmp_path / "run")
    assert "its folded batch norms were measured on 6 training images" in text
    model = atrous.load(tmp_path / "run" / "last.safetensors").model
    assert not has_folded_norms(model.backbone)
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 224, 224), np.uint8))
    plain = atrous.convert(str(TFLITE)).model  # type: ignore[operator]
    expected, seen = plain.features(image)["c5"], model.features(image)["c5"]
    assert expected.shape[1] == seen.shape[1]
    first = "backbone.stem.norm.running_var"
    assert not torch.equal(model.state_dict()[first], torch.ones_like(model.state_dict()[first]))


# ---- which of two settings counts


def test_the_upper_setting_takes_the_place_of_the_lower(folder_data: Path) -> None:
    with_init = of_folder(folder_data, "train.init=a.safetensors", "train.reuse=backbone")
    assert (with_init.model.pretrained, with_init.train.init) == (None, "a.safetensors")
    back = override(with_init, ["model.pretrained=imagenet"], "")
    assert (back.model.pretrained, back.train.init, back.train.reuse) == ("imagenet", None, "all")
    none = override(with_init, ["model.pretrained=none"], "")
    assert none.train.init == "a.safetensors"


def test_two_at_once_are_refused(folder_data: Path) -> None:
    with pytest.raises(ConfigError, match=r"init=a and model\.pretrained=imagenet both say"):
        of_folder(folder_data, "train.init=a", "model.pretrained=imagenet")


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        ("ImageNet", "imagenet"),
        ("true", "imagenet"),
        ("none", None),
        ("None", None),
        ("false", None),
        ("a.pth", "a.pth"),
    ],
)
def test_words_for_it(value: str, meaning: str | None, tiny: Settings) -> None:
    assert tiny(f"model.pretrained={value}").model.pretrained == meaning


def test_an_empty_one_is_refused(tiny: Settings) -> None:
    for key in ("model.pretrained", "train.init"):
        with pytest.raises(ConfigError, match=f"{key}=: must not be empty"):
            tiny(f"{key}=")


# ---- random weights


def test_random_weights_are_said_with_their_price(folder_data: Path, tmp_path: Path, tiny: Settings) -> None:
    text = shown(of_folder(folder_data, "model.pretrained=none"), tmp_path / "run")
    assert "begins with random weights; 6 images are few for them" in text
    assert "0.431" in text and "model.pretrained=imagenet begins with better ones" in text
    stored = json.loads((tmp_path / "run" / "reused.json").read_text())
    assert stored["source"] == "" and not stored["reused"] and stored["fresh"]
    text = shown(tiny("train.steps=1", "train.eval_every=1"), tmp_path / "drawn")
    assert "begins with random weights\n" in text, "scenes that are drawn have no photographs to learn from"


def test_recipes_for_folders_begin_with_imagenet_and_others_do_not() -> None:
    for name in ("folder/deeplab_v3plus", "folder/panoptic_deeplab"):
        assert load(name, ["data.root=x"]).model.pretrained == "imagenet"
    for name in ("synthetic/demo", "synthetic/panoptic_demo", "synthetic/deeplab_v3plus_tiny"):
        assert load(name).model.pretrained is None

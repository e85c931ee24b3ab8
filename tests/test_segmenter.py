"""One file holds a model whole; a damaged or foreign one is refused with its name."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import atrous
from atrous import models, segmenter
from atrous.config import Config
from atrous.data.label_space import LabelSpace
from atrous.inference import InferenceConfig
from atrous.models import MODELS
from atrous.segmenter import Segmenter


@pytest.fixture
def small(tiny: Callable[..., Config]) -> Segmenter:
    config = tiny()
    space = LabelSpace(names=("sky", "road", "car"), colors=((0, 0, 255), (99, 99, 99), (255, 0, 0)), ignore=9)
    made = segmenter.create(config.model, label_space=space)
    torch.nn.init.normal_(list(made.model.parameters())[-2], std=1.0)
    return Segmenter(made.model, space, InferenceConfig(flip=True), config, {"miou": 0.5, "protocol": {"flip": "yes"}})


def image(height: int = 40, width: int = 50) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_saved_and_loaded_it_is_the_same(small: Segmenter, tmp_path: Path) -> None:
    small.save(tmp_path / "model.safetensors")
    loaded = atrous.load(tmp_path / "model.safetensors")
    assert (loaded.label_space, loaded.inference, loaded.training, loaded.results) == (
        small.label_space,
        small.inference,
        small.training,
        small.results,
    )
    for (name, one), (other_name, other) in zip(
        small.model.state_dict().items(), loaded.model.state_dict().items(), strict=True
    ):
        assert name == other_name
        assert torch.equal(one, other)
    assert np.array_equal(small.predict(image()).semantic, loaded.predict(image()).semantic)


def test_predict_takes_arrays_pil_images_and_paths(small: Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(image()).save(path)
    found = [small.predict(given).semantic for given in (image(), Image.fromarray(image()), path, str(path))]
    assert all(np.array_equal(found[0], other) for other in found)
    assert found[0].shape == (40, 50)
    assert found[0].dtype == np.uint8


def test_probabilities_are_there_on_request(small: Segmenter) -> None:
    found = small.predict(image(), probabilities=True)
    assert found.probabilities is not None
    assert found.probabilities.shape == (3, 40, 50)
    assert np.allclose(found.probabilities.sum(0), 1, atol=1e-5)
    assert np.array_equal(found.probabilities.argmax(0), found.semantic)
    assert small.predict(image()).probabilities is None


def test_masks_are_palette_pngs_and_overlays_have_the_size_of_the_image(small: Segmenter, tmp_path: Path) -> None:
    found = small.predict(image())
    found.save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.mode == "P"
        assert np.array_equal(np.array(mask), found.semantic)
        assert np.array_equal(np.array(mask.convert("RGB")), small.label_space.palette()[found.semantic])
    assert found.overlay().size == (50, 40)


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)]
)
def test_other_arrays_are_refused(small: Segmenter, bad: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    with pytest.raises(ValueError, match="an image is an array"):
        small.predict(bad)


def test_unreadable_images_are_named(small: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        small.predict(tmp_path / "nowhere.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n rubbish")
    with pytest.raises(ValueError, match=r"bad\.png"):
        small.predict(tmp_path / "bad.png")


def test_another_output_stride_shares_the_weights(small: Segmenter) -> None:
    dense = small.with_output_stride(8)
    assert dense.model.config.output_stride == 8
    assert dense.model.config.model_dump()["rates"] == (4, 8, 12)
    assert small.model.config.output_stride == 16
    own = dict(small.model.named_parameters())
    assert all(parameter is own[name] for name, parameter in dense.model.named_parameters())
    assert dense.predict(image()).semantic.shape == (40, 50)


def test_rates_that_have_no_counterpart_are_refused(tiny: Callable[..., Config]) -> None:
    made = segmenter.create(tiny("model.rates=1,3").model, num_classes=3)
    with pytest.raises(ValueError, match="no whole counterpart at 32"):
        made.with_output_stride(32)


@pytest.mark.parametrize(
    ("model", "backbone", "output_stride", "reason"),
    [
        ("deeplab_v3", "pnasnet", 8, "deeplab_v3 with pnasnet at 8 has other weights than at 16; keep 16"),
        ("deeplab_v1", "vgg16", 16, "output_stride=16: Input should be 8"),
        ("deeplab_v2", "vgg16", 16, "output_stride 16 is not for vgg16, which has 8"),
        (
            "deeplab_v2",
            "mobilenet_v2",
            32,
            r"rates \(6, 12, 18, 24\) at output stride 8 have no whole counterpart at 32",
        ),
        ("dense_prediction_cell", "mobilenet_v2", 32, "output_stride=32: Input should be 8 or 16"),
    ],
)
def test_an_output_stride_that_can_not_be_had_is_refused_in_one_line(
    model: str, backbone: str, output_stride: int, reason: str
) -> None:
    with torch.device("meta"):
        config = MODELS[model].Config.model_validate(
            {"backbone": backbone} | ({"output_stride": 8} if backbone == "vgg16" else {})
        )
        made = Segmenter(models.build(config, 3), LabelSpace(names=("a", "b", "c")))
    with pytest.raises(ValueError, match=reason) as error:
        made.with_output_stride(output_stride)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=reason):
        made.with_inference(InferenceConfig.model_validate({"output_stride": output_stride}))


def test_a_model_with_lists_of_lists_is_saved_whole(tmp_path: Path) -> None:
    cell = ({"kernel": 1}, {"op": "pyramid_pooling", "grid_size": (2, 4), "input": 0})
    tree = {
        "backbone": "mobilenet_v2",
        "depth_multiplier": 0.1,
        "cell": cell,
        "cell_channels": 4,
        "image_pyramid": (0.5, 1),
    }
    config = MODELS["dense_prediction_cell"].Config.model_validate(tree)
    protocol = InferenceConfig(mode="canvas", window=(33, 49), crf="v2_vgg16")
    made = segmenter.create(config, num_classes=3)
    Segmenter(made.model, made.label_space, protocol).save(tmp_path / "model.safetensors")
    loaded = atrous.load(tmp_path / "model.safetensors")
    assert loaded.model.config == made.model.config == config.model_copy(update={"num_classes": 3})
    assert loaded.inference == protocol
    assert loaded.predict(image()).semantic.shape == (40, 50)


def test_create_by_name() -> None:
    made = atrous.create("deeplab_v3", backbone="mobilenet_v2", num_classes=4)
    assert made.label_space.num_classes == 4
    again = atrous.create("deeplab_v3", backbone="mobilenet_v2", num_classes=4)
    assert all(
        torch.equal(one, other) for one, other in zip(made.model.parameters(), again.model.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model": "deeplab_v9", "num_classes": 3}, "did you mean deeplab_v3"),
        ({"model": "deeplab_v3", "backbone": "resnet51", "num_classes": 3}, "did you mean resnet5?0?"),
        ({"model": "deeplab_v3", "backbone": "mobilenet_v2"}, "num_classes or label_space"),
        ({"model": "deeplab_v3", "backbone": "mobilenet_v2", "num_classes": 1}, "num_classes"),
        ({"model": "deeplab_v3", "backbone": "mobilenet_v2", "num_classes": 3, "output_stride": 5}, "output_stride"),
    ],
)
def test_create_explains_what_it_cannot_do(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        atrous.create(**settings)  # type: ignore[arg-type]


def test_a_label_space_of_other_size_is_refused() -> None:
    with pytest.raises(ValueError, match="is 5, but the label space has 2 classes"):
        atrous.create("deeplab_v3", backbone="mobilenet_v2", num_classes=5, label_space=LabelSpace(names=("a", "b")))


# ---- files that aren't what they should be


@pytest.fixture
def saved(small: Segmenter, tmp_path: Path) -> Path:
    small.save(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("length", [0, 4, 100, 5000, -1])
def test_a_truncated_file_is_refused(saved: Path, length: int) -> None:
    saved.write_bytes(saved.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"model\.safetensors: not a whole \.safetensors file"):
        atrous.load(saved)


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match=r"foreign\.safetensors: .* not an Atrous model"):
        atrous.load(tmp_path / "foreign.safetensors")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match=r"foreign\.pth: not a whole"):
        atrous.load(tmp_path / "foreign.pth")
    with pytest.raises(FileNotFoundError, match="no such model file"):
        atrous.load(tmp_path / "nowhere.safetensors")


def rewrite(path: Path, *, header: dict[str, str] | None = None, drop: str = "", resize: str = "") -> None:
    """Save the file again, with something about it changed."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), **(header or {})}
    weights = {name: tensor for name, tensor in load_file(path).items() if name != drop}
    if resize:
        weights[resize] = weights[resize][:1].clone()
    save_file(weights, path, metadata)


def test_missing_weights_are_listed(saved: Path) -> None:
    name = next(name for name in load_file(saved) if name.endswith("running_mean"))
    rewrite(saved, drop=name)
    with pytest.raises(ValueError, match=rf"1 missing \({name}\)"):
        atrous.load(saved)


def test_weights_of_another_shape_are_named(saved: Path) -> None:
    name = list(load_file(saved))[-1]
    rewrite(saved, resize=name)
    with pytest.raises(ValueError, match="disagree"):
        atrous.load(saved)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"label_space": json.dumps({"names": ["a", "b"]})}, "disagree"),
        ({"atrous_format": "99"}, "format 99"),
        ({"label_space": "{"}, "damaged"),
        ({"model": json.dumps({"name": "deeplab_v77"})}, "unknown model"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(saved: Path, header: dict[str, str], reason: str) -> None:
    rewrite(saved, header=header)
    with pytest.raises(ValueError, match=reason) as error:
        atrous.load(saved)
    assert str(saved) in str(error.value)

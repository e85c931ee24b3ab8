"""PyTorch as a runtime: a prepared network predicts as its model does, and faster; files are opened or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from atrous.errors import ConfigError, ModelFileError
from atrous.layers.folding import norms_in
from atrous.models import Model
from atrous.runtimes import RUNTIMES, pytorch
from atrous.segmenter import Segmenter
from atrous.types import Outputs
from tests.conftest import noise
from tests.models.conftest import VARIANTS, random_images
from tests.models.conftest import small as small_model
from tests.runs import assert_same

CPU = torch.device("cpu")
IMAGES = torch.from_numpy(noise(33, 49)).permute(2, 0, 1)[None]


@torch.no_grad()
def test_a_network_that_follows_has_the_facts_and_the_bits_of_its_model(small: Segmenter) -> None:
    model = small.model.eval()
    following = pytorch.follow(model, "cpu")
    assert following.facts == model.facts
    assert torch.equal(following(IMAGES).semantic, model(IMAGES).semantic)
    assert torch.equal(following(IMAGES, 0.5).semantic, model(IMAGES, 0.5).semantic)


def test_a_network_that_follows_shares_weights_and_has_a_mode_of_its_own(small: Segmenter) -> None:
    model = small.model.train()
    module = pytorch.follow(model, CPU).module
    assert isinstance(module, Model)
    assert model.training and not module.training
    pairs = zip((*module.parameters(), *module.buffers()), (*model.parameters(), *model.buffers()), strict=True)
    assert all(one is other for one, other in pairs)
    assert module.mean == model.mean


def with_statistics(model: Model) -> Model:
    """As after a training: all norms do something, and none what another does."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for norm in norms_in(model):
            for name, low, high in (("running_mean", -0.3, 0.3), ("running_var", 0.3, 2), ("weight", 0.5, 1.5)):
                getattr(norm, name).uniform_(low, high, generator=generator)
    return model.eval()


def maps_of(outputs: Outputs) -> list[Tensor]:
    maps = (outputs.semantic, outputs.classes, outputs.center, outputs.offset)
    return [one for one in maps if one is not None and one.numel()]


def assert_near(prepared: Outputs, exact: Outputs, tolerance: float) -> None:
    for one, other in zip(maps_of(prepared), maps_of(exact), strict=True):
        assert one.dtype == other.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * float(other.abs().max()))


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_every_model_prepared_computes_the_same(variant: str) -> None:
    name, settings = VARIANTS[variant]
    model = with_statistics(small_model(name, 5, **settings))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    images = random_images(2, 65, 97)
    exact = model(images)
    prepared = pytorch.prepare(model, CPU)
    assert isinstance(prepared.module, Model)
    assert len(norms_in(prepared.module)) == (name == "encnet")  # one that follows no convolution
    assert_near(prepared(images), exact, 5e-5)
    assert_near(prepared(images[:1, :, :33, :50]), model(images[:1, :, :33, :50]), 5e-5)
    for one, other in zip(maps_of(pytorch.prepare(model, CPU, precision="bf16")(images)), maps_of(exact), strict=True):
        assert (one - other).abs().mean() <= 0.1 * other.abs().max()  # of untrained networks, whose layers amplify it
    assert_same(model.state_dict(), before)


@pytest.mark.parametrize(
    "backbone", ["xception_41", "resnet_v1_18_beta", "mobilenet_v3_small_seg", "pnasnet", "resnet50s"]
)
@torch.no_grad()
def test_every_family_of_backbones_is_folded_whole(backbone: str) -> None:
    model = with_statistics(small_model("deeplab_v3", 5, backbone=backbone))
    prepared = pytorch.prepare(model, CPU)
    assert isinstance(prepared.module, Model)
    assert norms_in(model) and not norms_in(prepared.module)
    images = random_images(1, 48, 66)
    assert_near(prepared(images), model(images), 5e-5)


@pytest.mark.parametrize("backbone", ["timm:resnet18", "timm:mobilenetv3_small_050", "timm:tf_efficientnet_lite0"])
@torch.no_grad()
def test_timms_networks_are_folded_whole(backbone: str, timm: Any) -> None:  # noqa: ANN401
    model = with_statistics(small_model("deeplab_v3", 5, backbone=backbone))
    prepared = pytorch.prepare(model, CPU)
    assert isinstance(prepared.module, Model)
    assert norms_in(model) and not norms_in(prepared.module)
    images = random_images(1, 64, 96)
    assert_near(prepared(images), model(images), 5e-5)


@torch.no_grad()
def test_heads_that_only_a_loss_reads_are_not_computed() -> None:
    model = small_model("pspnet", 5)
    assert pytorch.prepare(model, CPU)(IMAGES).heads["auxiliary"].numel() == 0
    assert model(IMAGES).heads["auxiliary"].numel() > 0
    danet = small_model("danet", 5)  # whose heads are called as the branches that they come from
    assert_near(pytorch.prepare(danet, CPU)(IMAGES), danet(IMAGES), 2e-5)


@torch.no_grad()
def test_bf16_is_computed_in_bf16_but_for_the_logits(small: Segmenter) -> None:
    kinds: list[torch.dtype] = []
    exact, rounded = (pytorch.prepare(small.model, CPU, precision=precision) for precision in ("fp32", "bf16"))
    assert isinstance(rounded.module, Model)
    rounded.module.backbone.register_forward_hook(lambda part, inputs, output: kinds.append(output["c5"].dtype))
    one, other = exact(IMAGES).semantic, rounded(IMAGES).semantic
    assert (one.dtype, other.dtype, kinds) == (torch.float32, torch.float32, [torch.bfloat16])
    assert not torch.equal(one, other)
    torch.testing.assert_close(other, one, atol=0.1 * float(one.abs().max()), rtol=0)


def test_code_is_made_for_the_first_sizes_only() -> None:
    calls: list[tuple[str, torch.Size]] = []

    def as_if(name: str) -> Callable[..., Outputs]:
        return lambda images, scale: calls.append((name, images.shape)) or Outputs()  # type: ignore[func-returns-value]

    network = pytorch.CompiledBySize(as_if("compiled"), as_if("packed"))
    images = [torch.zeros(1, 3, side, 9) for side in range(1, 7)]
    for one in (*images, images[0], images[5]):
        network(one)
    compiled = {shape for name, shape in calls if name == "compiled"}
    assert compiled == {one.shape for one in images[: pytorch.MAX_COMPILED]}
    assert [name for name, _ in calls] == ["compiled"] * 4 + ["packed"] * 2 + ["compiled", "packed"]


@pytest.mark.slow
@torch.no_grad()
def test_compiled_it_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = with_statistics(small_model("fcn", 5))
    prepared = pytorch.prepare(model, CPU, compile=True)
    assert_near(prepared(IMAGES), model(IMAGES), 5e-5)
    assert isinstance(prepared.module, pytorch.CompiledBySize) and len(prepared.module.sizes) == 1


def test_nothing_is_compiled_to_settle_the_precision(small: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytorch, "has_bf16", lambda device: True)
    monkeypatch.setattr(pytorch, "compiled", lambda model: pytest.fail("compiled"))
    _, share = small.with_speed("auto", compile=True).settled([noise(260, 260)])
    assert share is not None


def test_preparations_are_made_once_and_again_when_the_weights_have_changed(small: Segmenter) -> None:
    preparations = pytorch.Preparations(small.model, CPU, compile=False)
    first = preparations("fp32")
    assert preparations("fp32") is first
    changes: tuple[Callable[[], object], ...] = (
        lambda: small.model.get_parameter("classify.bias").data.add_(1),  # which PyTorch counts as no change
        lambda: small.model.get_parameter("classify.bias").detach().zero_(),
        lambda: small.model.load_state_dict({key: one + 1 for key, one in small.model.state_dict().items()}),
        lambda: small.model.get_parameter("classify.weight").detach().add_(1),
    )
    for number, change in enumerate(changes):
        preparations("fp32")
        change()
        assert (preparations("fp32") is first) is (number == 0)
        first = preparations("fp32")


def test_a_missing_compiler_or_bfloat16_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"^compile: torch.compile needs a C\+\+ compiler, such as g\+\+"):
        pytorch.require_compiler(CPU)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert not pytorch.has_bf16(CPU)
    with pytest.raises(ConfigError, match=r"^precision=bf16: this cpu has no bfloat16 .* use fp32 or auto$"):
        pytorch.require_precision("bf16", CPU)
    with pytest.raises(ConfigError, match=r"^precision=fp16: expected auto, fp32, bf16$"):
        pytorch.require_precision("fp16", CPU)  # type: ignore[arg-type]


def test_a_file_is_opened_by_its_row(small: Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    small.save(path)
    row = RUNTIMES["pytorch"]
    assert path.name.endswith(row.suffix)
    assert row.read_metadata(path).keys() >= {"atrous_format", "model", "label_space", "checksum"}
    network = row.open(path, small.header.model, 3, CPU)
    assert isinstance(network, Model)
    assert not network.training
    assert_same(network.state_dict(), small.model.state_dict())
    with pytest.raises(ModelFileError, match=r"classify\.bias is \[3\] where the model has \[4\]"):
        row.open(path, small.header.model, 4, CPU)


def test_a_checksum_depends_on_names_types_shapes_and_values() -> None:
    weights = {"a": torch.arange(4.0), "b": torch.tensor(3)}
    same = {"b": torch.tensor(3), "a": torch.arange(8.0)[:4]}
    assert pytorch.checksum(weights) == pytorch.checksum(same)
    others = (
        {"c": weights["a"], "b": weights["b"]},
        {"a": weights["a"].view(torch.int32), "b": weights["b"]},
        {"a": weights["a"].reshape(2, 2), "b": weights["b"]},
        {"a": weights["a"] + torch.tensor([0, 0, 0, 1e-6]), "b": weights["b"]},
        {"a": weights["a"]},
    )
    assert len({pytorch.checksum(one) for one in (weights, *others)}) == 6


KINDS = (torch.bool, torch.uint8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64)


def test_weights_of_every_type_are_read_into_aligned_memory(tmp_path: Path) -> None:
    weights = {str(kind): torch.arange(6).reshape(2, 3).to(kind) for kind in KINDS}
    weights |= {"scalar": torch.tensor(7), "empty": torch.zeros(0, 3)}
    for length in range(1, 9):
        path = tmp_path / "weights.safetensors"
        save_file(weights, path, {"header": "x" * length})
        read = pytorch.read_weights(path)
        assert read.keys() == weights.keys()
        assert all(torch.equal(read[name], weight) for name, weight in weights.items())
        assert all(read[name].dtype == weight.dtype for name, weight in weights.items())
        assert all(weight.data_ptr() % 64 == 0 for weight in read.values())

"""PyTorch as a runtime: a prepared network shares weights and predicts as its model; files are opened or refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from atrous.errors import ModelFileError
from atrous.models import Model
from atrous.runtimes import RUNTIMES, pytorch
from atrous.segmenter import Segmenter
from tests.conftest import noise
from tests.runs import assert_same

CPU = torch.device("cpu")
IMAGES = torch.from_numpy(noise(33, 49)).permute(2, 0, 1)[None]


@torch.no_grad()
def test_a_prepared_network_has_the_facts_and_outputs_of_its_model(small: Segmenter) -> None:
    model = small.model.eval()
    prepared = pytorch.prepare(model, "cpu")
    assert prepared.facts == model.facts
    assert torch.equal(prepared(IMAGES).semantic, model(IMAGES).semantic)
    assert torch.equal(prepared(IMAGES, 0.5).semantic, model(IMAGES, 0.5).semantic)


def test_a_prepared_network_shares_weights_and_has_a_mode_of_its_own(small: Segmenter) -> None:
    model = small.model.train()
    module = pytorch.prepare(model, CPU).module
    assert isinstance(module, Model)
    assert model.training and not module.training
    pairs = zip((*module.parameters(), *module.buffers()), (*model.parameters(), *model.buffers()), strict=True)
    assert all(one is other for one, other in pairs)
    assert module.mean == model.mean


@torch.no_grad()
def test_bf16_is_computed_in_bf16(small: Segmenter) -> None:
    exact, rounded = (
        pytorch.prepare(small.model, CPU, precision=precision)(IMAGES).semantic for precision in ("fp32", "bf16")
    )
    assert (exact.dtype, rounded.dtype) == (torch.float32, torch.bfloat16)
    assert not torch.equal(exact, rounded.float())
    torch.testing.assert_close(rounded.float(), exact, atol=0.1 * float(exact.abs().max()), rtol=0)


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

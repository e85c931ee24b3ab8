"""PyTorch's checkpoints: their weights are read, and nothing in them is run, however they are made."""

import io
import json
import os
import pickle
import time
import tracemalloc
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from atrous.convert.readers.pth import MAX_PICKLE, read_pth, without_wrapper
from atrous.errors import ConversionError
from tests.convert.readers.test_fuzz import damaged

Zip = Callable[[str, bytes], bytes | None]  # name and content of a member -> what to write in its place

OLD = {"_use_new_zipfile_serialization": False}
FORMATS: dict[str, dict[str, Any]] = {"zip": {}, "pickles": OLD}
both_formats = pytest.mark.parametrize("form", FORMATS)
HUGE = 10**12


def state() -> OrderedDict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = OrderedDict((f"layer{i}.weight", torch.randn(4, 3, generator=generator)) for i in range(3))
    weights["layer0.bias"] = nn.Parameter(torch.randn(3, generator=generator))
    weights["bn.num_batches_tracked"] = torch.tensor(7)
    return weights


def trained() -> dict[str, Any]:
    """As semseg's program saves it: with the names of the wrapper, and an optimiser with momentum."""
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([parameter], 0.1, momentum=0.9)
    parameter.grad = torch.ones(3)
    optimizer.step()
    wrapped = {f"module.{name}": tensor for name, tensor in state().items()}
    return {"epoch": 3, "state_dict": wrapped, "optimizer": optimizer.state_dict()}


def saved(path: Path, what: object, form: str = "zip", **how: Any) -> Path:  # noqa: ANN401
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's about itself
        torch.save(what, path, **FORMATS[form], **how)
    return path


def rewritten(source: Path, change: Zip, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(source) as old:
        members = [(name, change(name.partition("/")[2], old.read(name))) for name in old.namelist()]
    with zipfile.ZipFile(source, "w", compression) as new:
        for name, content in members:
            if content is not None:
                new.writestr(name, content)
    return source


def refused(path: Path, reason: str) -> None:
    started = time.process_time()
    with pytest.raises(ConversionError, match=reason) as error:
        read_pth(path)
    assert time.process_time() - started < 1
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


# ---- read


@both_formats
@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_weights_are_those_of_the_network_itself(tmp_path: Path, form: str, key: str) -> None:
    checkpoint = trained()
    checkpoint[key] = checkpoint.pop("state_dict")
    weights = read_pth(saved(tmp_path / "a.pth", checkpoint, form))
    assert list(weights) == list(state())
    for name, tensor in state().items():
        assert np.array_equal(weights[name], tensor.detach().numpy())
    assert weights["bn.num_batches_tracked"].shape == ()


@both_formats
def test_a_file_may_be_one_mapping(tmp_path: Path, form: str) -> None:
    others: dict[object, object] = {"epoch": 3, "arch": "psp", "classes": [1], 5: 6}
    weights = read_pth(saved(tmp_path / "a.pt", others | dict(state()), form))
    assert list(weights) == list(state())


KERNEL = {"conv.weight": torch.ones(2, 3, 3, 3)}
ELSEWHERE: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "an entry of an entry": lambda weights: {"model": {"state_dict": weights, "epoch": 3}},
    "an entry of another": lambda weights: {"checkpoint": {"net": weights}, "loss": {"weight": torch.ones(2)}},
    "any name": lambda weights: {"generator": weights, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
    "a list": lambda weights: [weights, {"lr": 0.1}, 3],
    "a tuple": lambda weights: (3, weights),
}


@pytest.mark.parametrize("place", ELSEWHERE)
def test_weights_are_found_where_nobody_expects_them(place: str, tmp_path: Path) -> None:
    weights = dict(state()) | KERNEL
    assert list(read_pth(saved(tmp_path / "a.pth", ELSEWHERE[place](weights)))) == list(weights)


def test_of_several_networks_none_is_taken(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"student": dict(state()) | KERNEL, "teacher": dict(KERNEL), "epoch": 3})
    refused(path, "it holds weights several times, as 'student', 'teacher': save the ones you want alone")


@both_formats
@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float16, np.float16),
        (torch.bfloat16, np.float32),
        (torch.float32, np.float32),
        (torch.float64, np.float64),
        (torch.uint8, np.uint8),
        (torch.bool, np.bool_),
    ],
)
def test_numbers_keep_their_values(tmp_path: Path, form: str, dtype: torch.dtype, expected: type) -> None:
    tensor = torch.tensor([[0.0, 1.5, 3.140625], [2.0, 0.0, 1e3]]).to(dtype)
    weights = read_pth(saved(tmp_path / "a.pth", {"x": tensor}, form))["x"]
    assert weights.dtype == expected
    assert np.array_equal(weights.astype(np.float64), tensor.double().numpy())


@both_formats
def test_views_keep_their_strides(tmp_path: Path, form: str) -> None:
    base = torch.arange(12.0).view(3, 4)
    weights = read_pth(saved(tmp_path / "a.pth", {"all": base, "turned": base.T, "part": base[1:, 2:]}, form))
    assert np.array_equal(weights["turned"], base.T.numpy())
    assert weights["part"].tolist() == [[6, 7], [10, 11]]


def test_a_large_file_is_not_read_before_its_weights_are_used(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"x": torch.ones(2**22)})
    tracemalloc.start()
    weights = read_pth(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22
    assert weights["x"].sum() == 2**22


def test_checksums_may_be_left_out(tmp_path: Path) -> None:
    has_checksums = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path / "a.pth", trained())
    finally:
        torch.serialization.set_crc32_options(has_checksums)
    assert list(read_pth(path)) == list(state())


def test_a_wrapper_is_removed_if_all_weights_are_in_it() -> None:
    assert without_wrapper({"module.a": 1, "module.b": 2}) == {"a": 1, "b": 2}
    assert without_wrapper({"_orig_mod.module.a": 1}) == {"a": 1}
    assert without_wrapper({"module._orig_mod.a": 1}) == {"a": 1}
    assert without_wrapper({"module.a": 1, "b": 2}) == {"module.a": 1, "b": 2}
    assert without_wrapper({}) == {}


# ---- refused


class Call:
    """A call that `pickle` would make on reading."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.arguments


class Custom:
    value = 3


@both_formats
@pytest.mark.parametrize("place", ["epoch", "state_dict"])
def test_functions_are_named_and_never_called(tmp_path: Path, form: str, place: str) -> None:
    mark = tmp_path / "was_run"
    path = saved(tmp_path / "a.pth", {**trained(), place: Call(os.mkdir, str(mark))}, form)
    refused(path, r"it holds '(posix|nt)\.mkdir', which is refused: anyone may have made the file")
    refused(saved(path, {"x": Call(eval, f"open({str(mark)!r}, 'w')")}, form), r"it holds 'builtins\.eval', which is")
    refused(saved(path, {"x": Call(bytearray, HUGE)}, form), r"it holds 'builtins\.bytearray', which is refused")
    assert not mark.exists()


@both_formats
@pytest.mark.parametrize(
    ("what", "name"),
    [
        (nn.Conv2d(3, 3, 3), r"torch\.nn\.modules\.conv\.Conv2d"),
        ({"model": nn.Linear(2, 2)}, r"torch\.nn\.modules\.linear\.Linear"),
        ({**trained(), "args": Custom()}, r"tests\.convert\.readers\.test_pth\.Custom"),
        ({"x": np.ones(3)}, r"numpy\..*\._reconstruct"),
    ],
)
def test_objects_of_other_classes_are_named(tmp_path: Path, form: str, what: object, name: str) -> None:
    refused(saved(tmp_path / "a.pth", what, form), f"it holds '{name}', which is refused")


@both_formats
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: torch.eye(3).to_sparse(), "'x' is sparse; only plain tensors of floats or integers are read"),
        (lambda: torch.eye(3).to_sparse_csr(), "'x' is sparse"),
        (lambda: torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8), "'x' is quantised"),
        (lambda: torch.ones(3, dtype=torch.complex64), r"'x' is torch\.complex64"),
        (lambda: torch.empty(3, device="meta"), "'x' is without data"),
        (lambda: torch.empty(HUGE, device="meta"), r"its weights claim 40{9}\d+ bytes, in a file of"),
        (lambda: torch.ones(1).expand(HUGE), r"its weights claim 40{9}\d+ bytes, in a file of"),
        (lambda: torch.ones(1, dtype=torch.bfloat16).expand(HUGE), r"its weights claim 20{9}\d+ bytes"),
    ],
)
def test_odd_tensors_are_named(tmp_path: Path, form: str, make: Callable[[], Tensor], reason: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensor = make()
    refused(saved(tmp_path / "a.pth", {**state(), "x": tensor}, form), reason)


@both_formats
@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ([1, 2], "it must hold weights by name, but holds a list"),
        (torch.ones(3), "it must hold weights by name, but holds a Tensor"),
        ({}, "it holds no weights, but nothing"),
        ({"epoch": 3, "optimizer": {"state": {}}}, r"it holds no weights, but 'epoch' \(int\), 'optimizer' \(dict\)$"),
        ({"state_dict": {}, 5: "a\nb"}, r"it holds no weights, but 'state_dict' \(dict\), '5' \(str\)$"),
        ({str(number): number for number in range(9)}, r"'5' \(int\) and 3 more$"),
    ],
)
def test_files_without_weights_say_what_they_hold(tmp_path: Path, form: str, what: object, reason: str) -> None:
    refused(saved(tmp_path / "a.pth", what, form), reason)


OTHER_FILES = (
    b"",
    b"no pickle",
    b"PK\x03\x04" + bytes(100),
    b"\x80\x02.",
    b"\x80\x02]q\x00.",
    bytes(1000),
    json.dumps({"state_dict": {}}).encode(),
    pickle.dumps({"state_dict": {"x": 1}}),
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    for data in OTHER_FILES:
        path.write_bytes(data)
        refused(path, "as a PyTorch checkpoint: not a file of torch.save, or damaged: ")


@both_formats
def test_truncations_are_detected(tmp_path: Path, form: str) -> None:
    path = saved(tmp_path / "a.pth", trained(), form)
    whole = path.read_bytes()
    for length in (len(whole) - 1, len(whole) - 30, len(whole) // 2, len(whole) // 10, 5):
        path.write_bytes(whole[:length])
        refused(path, "not a file of torch.save, or damaged: ")


def test_an_unsupported_protocol_is_refused(tmp_path: Path) -> None:
    refused(saved(tmp_path / "a.pth", state(), pickle_protocol=4), "'Unsupported operand 149'")


def test_archives_that_could_grow_are_refused(tmp_path: Path) -> None:
    path = rewritten(
        saved(tmp_path / "a.pth", state()),
        lambda name, data: bytes(2**24) if name == "data/0" else data,
        zipfile.ZIP_DEFLATED,
    )
    refused(path, r"its members are compressed, or claim \d+ bytes in a file of \d+")


def test_archives_of_other_programs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    refused(path, r"a program in TorchScript: .*torch\.jit\.load\(.*\.state_dict\(\)")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/archive_format", "pt2")
    refused(path, r"a program of torch\.export: .*\.state_dict, .*atrous predict MODEL\.pt2")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(path, "a zip archive, but not of torch.save")
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for folder in ("a", "b"):
            archive.writestr(f"{folder}/data.pkl", pickle.dumps({}, 2))
    refused(path, "a member occurs twice")


def test_flipped_bits_in_weights_are_detected(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", state())
    data = path.read_bytes()
    weights = state()["layer1.weight"].numpy().tobytes()
    path.write_bytes(data.replace(weights, bytes([weights[0] ^ 1]) + weights[1:]))
    refused(path, "Bad CRC-32 for file 'a/data/1'")


def claiming(path: Path, old: bytes) -> Path:
    """The same with a number of its pickle made HUGE."""
    number = pickle.dumps(HUGE, 2)[2:-1]
    if zipfile.is_zipfile(path):
        return rewritten(path, lambda name, data: data.replace(old, number) if name == "data.pkl" else data)
    path.write_bytes(path.read_bytes().replace(old, number))
    return path


@both_formats
def test_shapes_without_their_data_are_refused(tmp_path: Path, form: str) -> None:
    path = saved(tmp_path / "a.pth", {"x": torch.ones(4, 3)}, form)
    refused(claiming(path, b"K\x04"), "resize storage|allocate memory|wrong byte size|weights claim")


def test_storages_without_their_data_are_not_allocated(tmp_path: Path) -> None:
    """Nothing is allocated for one in an archive: of what is there, its tensor takes what it needs."""
    zipped = claiming(saved(tmp_path / "a.pth", {"x": torch.ones(4, 3)}), b"K\x0c")
    assert read_pth(zipped)["x"].tolist() == [[1.0] * 3] * 4
    pickles = claiming(saved(tmp_path / "b.pth", {"x": torch.ones(4, 3)}, "pickles"), b"K\x0c")
    refused(pickles, "allocate memory|wrong byte size")


def test_pickles_are_no_larger_than_weights_need(tmp_path: Path) -> None:
    long = {**state(), "log": ["x" * 1000] + [str(number) * 100 for number in range(MAX_PICKLE // 400)]}
    refused(saved(tmp_path / "a.pth", long), "PyTorch checkpoint: ")
    refused(saved(tmp_path / "a.pth", long, "pickles"), f"more than {MAX_PICKLE} bytes before its weights")


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such file: .*none\.pth"):
        read_pth(tmp_path / "none.pth")
    with pytest.raises(ConversionError, match="not a regular file"):
        read_pth(tmp_path)


@both_formats
def test_damaged_files_are_read_or_refused(tmp_path: Path, form: str) -> None:
    path = saved(tmp_path / "a.pth", trained(), form)
    whole, num_refused = path.read_bytes(), 0
    for case in range(400):
        path.write_bytes(damaged(whole, np.random.default_rng(case)))
        started = time.process_time()
        try:
            read_pth(path)
        except ConversionError as error:
            num_refused += 1
            assert str(path) in str(error)
            assert "\n" not in str(error)
        assert time.process_time() - started < 1
    assert num_refused > 100


def test_files_written_to_memory_are_read(tmp_path: Path) -> None:
    buffer = io.BytesIO()  # its archive's folder has another name than the file
    torch.save(trained(), buffer)
    path = tmp_path / "b.pth"
    path.write_bytes(buffer.getvalue())
    assert list(read_pth(path)) == list(state())

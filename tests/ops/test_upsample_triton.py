"""Triton's kernels: they pass the tests of the tiles, in Triton's interpreter if there is no GPU, and they compile."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import atrous.ops
from atrous.ops import upsample
from atrous.ops.problem import PixelLosses
from atrous.ops.upsample import TILED

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")

INTEGERS = {"num_classes", "height", "width", "large_height", "large_width", "longest"}
INDEX_TABLES = {"labels", "near_y", "near_x", "first_y", "first_x", "stop_y", "stop_x"}
SINGLE = {"num_classes": 1, "height": 1, "width": 1}  # Triton compiles an argument of 1 as a constant
PLAIN = {"smoothing": 0.0, "focal": 0.0, "smallest": 1e-7, "series_below": 0.01, "block": 128}
KERNELS: dict[str, tuple[str, dict[str, Any]]] = {
    "loss": ("_loss_kernel", PLAIN),
    "focal loss": ("_loss_kernel", {**PLAIN, "smoothing": 0.1, "focal": 2.0}),
    "slope": ("_slope_kernel", {"class_block": 16, "block": 32}),
    "argmax": ("_argmax_kernel", {"block": 128}),
}


@needs_triton
@pytest.mark.slow
def test_the_kernels_pass_the_tests_of_the_tiles() -> None:
    """In a process of its own: Triton reads the variable when it is imported."""
    chosen = "triton and not (line or same or three)"  # the interpreter takes a second for each
    call = [sys.executable, "-m", "pytest", "tests/ops/test_upsample.py", "-k", chosen]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    result = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:]
    counts = re.search(r"(\d+) passed", result.stdout)
    assert counts is not None and int(counts[1]) > 60, result.stdout[-4000:]
    assert "skipped" not in result.stdout


@needs_triton
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="interpreted kernels are not compiled")
@pytest.mark.parametrize("constants", [{}, SINGLE], ids=["maps", "one class and pixel"])
@pytest.mark.parametrize("real", ["fp32", "fp64"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_kernels_compile_for_a_gpu_that_is_not_there(
    kernel: str, real: str, constants: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the interpreter lets pass (types that change in a loop, sizes that are no power of two) fails here."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # otherwise some versions warn of their next default
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from atrous.ops import upsample_triton

    name, settings = KERNELS[kernel]
    function: Any = getattr(upsample_triton, name)
    values = {name: value for name, value in {**settings, **constants}.items() if name in function.arg_names}
    signature = {name: "constexpr" if name in values else _type(name, real) for name in function.arg_names}
    places = {(function.arg_names.index(name),): value for name, value in values.items()}
    compiled = triton.compile(ASTSource(function, signature, places), target=GPUTarget("cuda", 90, 32))
    assert ".target sm_90" in compiled.asm["ptx"]


def _type(name: str, real: str) -> str:
    if name in INTEGERS:
        return "i32"
    return "*i32" if name in INDEX_TABLES else "*u8" if name == "classes" else f"*{real}"


# ---- where Triton can't be used


def _kernels() -> upsample.Kernels:
    upsample._kernels_of_gpu.cache_clear()
    return upsample._kernels_of_gpu(CPU)


def test_without_triton_the_tiles_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(atrous.ops, "upsample_triton", raising=False)
    monkeypatch.delitem(sys.modules, "atrous.ops.upsample_triton", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    assert _kernels() is TILED


def _fail(*_: object) -> None:
    raise RuntimeError("PTX was compiled with an unsupported toolchain\nand more")


def _wrong_losses(*arguments: Any) -> PixelLosses:  # noqa: ANN401
    right = TILED.losses(*arguments)
    assert right.slope is not None
    return right._replace(slope=right.slope * 1.1)


@pytest.mark.parametrize(
    ("losses", "argmax", "message"),
    [
        (_fail, TILED.argmax, "RuntimeError: PTX was compiled with an unsupported toolchain"),
        (TILED.losses, _fail, "RuntimeError: PTX"),
        (_wrong_losses, TILED.argmax, "their results differ from the plain ones"),
        (TILED.losses, lambda small, classes, _: classes.zero_(), "their results differ from the plain ones"),
    ],
)
def test_kernels_that_fail_or_differ_are_not_used(
    losses: object, argmax: object, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atrous.ops, "upsample_triton", SimpleNamespace(losses=losses, argmax=argmax), raising=False)
    with pytest.warns(UserWarning, match="Triton's kernels are not used on cpu, which takes longer: " + message):
        assert _kernels() is TILED


def test_kernels_that_agree_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(losses=TILED.losses, argmax=lambda *arguments: TILED.argmax(*arguments))
    monkeypatch.setattr(atrous.ops, "upsample_triton", fake, raising=False)
    assert _kernels().argmax is fake.argmax


@pytest.fixture(autouse=True)
def forget() -> None:
    upsample._kernels_of_gpu.cache_clear()

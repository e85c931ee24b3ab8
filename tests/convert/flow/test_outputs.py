"""What lies behind the logits is harmless, or refused by its name."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from atrous.convert import convert
from atrous.convert.flow.operations import Operation, Operations, flow_of
from atrous.convert.flow.outputs import refused_behind
from atrous.errors import ConversionError
from tests.convert import graphs
from tests.convert.conftest import error_line
from tests.convert.flow.test_agreement import frozen, lite
from tests.convert.graphs import Step, half_width_steps

LAST = "ResizeBilinear_1"
ARG_MAX = Step("arg_max", "ArgMax", (LAST,), constants=(3,))
NUM_CLASSES = 21
assert ARG_MAX.op in graphs.OTHERS


def then(*steps: Step) -> list[Step]:
    """Each takes the one before."""
    chain = half_width_steps()
    for step in steps:
        chain.append(step._replace(inputs=(chain[-1].name,)))
    return chain


def step(op: str, *constants: object, **fields: object) -> Step:
    return Step(op, op.title(), (), constants=constants, **fields)  # type: ignore[arg-type]


REFUSED: dict[str, tuple[list[Step], str]] = {
    "negative": ([step("neg"), ARG_MAX], "is (?i:neg) .*'Neg'"),
    "times -1": ([step("mul", -1.0), ARG_MAX], "is mul .*'Mul'"),
    "by channel": ([step("mul", [1.0] + 20 * [-1.0]), ARG_MAX], "is mul .*'Mul'"),
    "from a constant": ([step("sub", 1.0, is_first=False), ARG_MAX], "is sub .*'Sub'"),
    "reversed": ([step("reverse", [3]), ARG_MAX], "is reversed .*'Reverse'"),
    "reordered": ([step("gather", list(range(20, -1, -1)), 3), ARG_MAX], "is (?i:gather).*'Gather'"),
    "the worst class": ([ARG_MAX._replace(op="arg_min")], "is (?i:arg_?min) .*'ArgMax'"),
    "the best row": ([ARG_MAX._replace(constants=(1,))], "is arg_max .*over another axis"),
    "softmax over rows": (
        [step("transpose", [0, 3, 2, 1]), step("softmax")],
        "is transpose .*that swaps height and width",
    ),
    "softmax over columns": (
        [step("transpose", [0, 3, 1, 2]), step("softmax")],
        "is softmax .*over another axis",
    ),
    "rows for columns": ([ARG_MAX, step("transpose", [0, 2, 1])], "is transpose .*that swaps height and width"),
    "whole scores": ([step("cast", is_integer=True), ARG_MAX], "is cast to integers .*of scores"),
    "without the last class": ([step("slice", [0, 0, 0, 0], [1, 65, 65, 20]), ARG_MAX], "is (?i:slice) .*leaves out"),
    "without the first class": (
        [step("slice", [0, 0, 0, 1], [1, 65, 65, 20]), ARG_MAX],
        "is (?i:slice) .*from the first",
    ),
    "other way round": (
        [step("strided_slice", [0, 0, 0, 0], [1, 65, 65, 21], [1, 1, -1, 1]), ARG_MAX],
        "is (?i:slice|strided_slice) .*from the first",
    ),
    "mixed": ([step("reshape", [1, 21, 65, 65])], "is reshape .*whose last axis"),
}
TAKEN: dict[str, list[Step]] = {
    "labels": [ARG_MAX, step("cast", is_integer=True), step("expand_dims", 3), step("squeeze")],
    "probabilities": [step("softmax"), ARG_MAX],
    "channels first": [step("transpose", [0, 3, 1, 2]), ARG_MAX._replace(constants=(1,))],
    "pixels in a row": [step("reshape", [-1, 21]), step("softmax"), ARG_MAX._replace(constants=(-1,))],
    "a part": [step("slice", [0, 0, 0, 0], [1, 60, 60, 21]), ARG_MAX],
    "in steps of one": [step("strided_slice", [0, 0, 0, 0], [1, 60, 60, 21], [1, 1, 1, 1]), ARG_MAX],
    "larger labels": [
        ARG_MAX,
        step("expand_dims", -1),
        Step("resize", "larger", (), size=99, align_corners=False, method="NearestNeighbor"),
    ],
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("write", [frozen, lite])
def test_what_changes_the_best_class_is_refused_by_its_name(
    kind: str, write: Callable[[Path, Sequence[Step]], Path], tmp_path: Path
) -> None:
    steps, reason = REFUSED[kind]
    with pytest.raises(ConversionError, match=f"behind the logits {reason}") as error:
        convert(write(tmp_path, then(*steps)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", TAKEN)
def test_what_leaves_the_best_class_is_taken(kind: str, tmp_path: Path) -> None:
    steps = then(*TAKEN[kind])
    convert(frozen(tmp_path, steps))
    if kind != "larger labels":  # the writer of TensorFlow Lite resizes linearly only
        convert(lite(tmp_path, steps))


@pytest.mark.parametrize("write", [frozen, lite])
def test_a_cast_to_integers_in_the_middle_is_refused(
    write: Callable[[Path, list[Step]], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = half_width_steps()
    place = next(place for place, one in enumerate(steps) if one.name == "logits/semantic")
    rounded = Step("cast", "rounded", ("concat_projection",), is_integer=True)
    floats = Step("cast", "floats", ("rounded",))
    whole = [*steps[:place], rounded, floats, steps[place]._replace(inputs=("floats",)), *steps[place + 1 :]]
    path, out = write(tmp_path, whole), tmp_path / "m.safetensors"
    assert "cast to integers" in error_line(capsys, path, "--out", out)
    assert not out.exists()


def test_labels_are_not_interpolated() -> None:
    operations = [
        Operation("conv", "a", ("image",), "a", "a/weights"),
        Operation("resize", "b", ("a",), "b"),
        Operation("Neg", "c", ("elsewhere",), "c"),  # of something else
    ]
    flow = flow_of(Operations(operations, {}, ("image",), {}), (9, 9))
    assert not list(refused_behind(flow.runs, flow.runs[0].key, NUM_CLASSES))
    labels = [operations[0], Operation("arg_max", "d", ("a", "axis"), "d"), Operation("resize", "e", ("d",), "e")]
    runs = flow_of(Operations(labels, {"axis": np.array(3)}, ("image",), {}), (9, 9)).runs
    assert list(refused_behind(runs, runs[0].key, NUM_CLASSES)) == [
        "behind the logits is resize ('e'), which interpolates labels"
    ]

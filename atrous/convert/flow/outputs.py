"""What a graph does behind its logits: nothing that makes another class the best of a pixel, or moves pixels."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from atrous.convert.flow.operations import ARG_MAX, INTEGERS, SOFTMAX
from atrous.convert.flow.values import Run
from atrous.types import Size

TENSORFLOW, PYTORCH = "bhwc", "bchw"
ONE, UNKNOWN = ".", "*"  # an axis of one; any number of axes
HARMLESS = "only resizing, softmax and arg-max over the classes, and changes of shape or type may be there"


class Scores(NamedTuple):
    """Of classes, or labels."""

    axes: str  # a letter of TENSORFLOW for each, ONE or UNKNOWN
    num_classes: int | None
    is_label: bool = False


Rule: TypeAlias = Callable[[Run, Scores], "Scores | str"]  # a text: why it is refused


def refused_behind(runs: Sequence[Run], logits: str, num_classes: int | None) -> Iterator[str]:
    """One text for each operation that isn't harmless; `logits`: their key. Nothing is said of what follows one."""
    orders, scores = dict[str, str](), dict[str, Scores]()
    for run in runs:
        orders[run.output] = _order(run, orders)
        inputs = [scores[name] for name in run.sources if name in scores]
        if not inputs and run.key == logits:
            scores[run.output] = Scores(orders[run.output], num_classes)
        elif inputs and run.op != "size":
            result = _is_bias(run, logits, inputs) or RULES.get(run.op, _other)(run, inputs[0])
            if isinstance(result, str):
                yield f"behind the logits is {run.op} ({run.name[:80]!r}){result}"
            else:
                scores[run.output] = result


def _order(run: Run, orders: dict[str, str]) -> str:
    """Of the axes of any map."""
    own = PYTORCH if run.is_channels_first else next((orders[one] for one in run.sources if one in orders), TENSORFLOW)
    axes = _numbers(run, 1) if run.op == "transpose" else None
    return "".join(own[axis] for axis in axes) if axes and sorted(axes) == [0, 1, 2, 3] else own


def _is_bias(run: Run, logits: str, inputs: list[Scores]) -> Scores | None:
    """Parts of the layer that makes the logits: all but its scores are its weights."""
    others = run.inputs[1:]
    is_part = run.op == "batch_to_space" or (run.op in ("add", "norm") and {one.op for one in others} == {"weight"})
    return inputs[0] if is_part and run.key == logits else None


# ---- rules


def _other(run: Run, x: Scores) -> str:
    return f": {HARMLESS}"


def _same(run: Run, x: Scores) -> Scores:
    return x


def _rounded(run: Run, x: Scores) -> Scores | str:
    return x if x.is_label else ", of scores, not of labels"


def _resized(run: Run, x: Scores) -> Scores | str:
    if x.is_label and run.method != "nearest":
        return ", which interpolates labels"
    return x if UNKNOWN in x.axes or x.axes[1:3] == "hw" else " of other axes than height and width"


def _softmax(run: Run, x: Scores) -> Scores | str:
    return x if not x.is_label and x.axes.endswith("c") else " over another axis than the classes'"


def _arg_max(run: Run, x: Scores) -> Scores | str:
    axis = next(iter(_numbers(run, 1) or ()), None)
    is_counted = axis is not None and -len(x.axes) <= axis < (0 if UNKNOWN in x.axes else len(x.axes))
    if axis is None or not is_counted or x.axes[axis] != "c":
        return " over another axis than the classes'"
    return x._replace(axes=x.axes.replace("c", ""), is_label=True)


def _transposed(run: Run, x: Scores) -> Scores | str:
    order = _numbers(run, 1)
    if order is None or sorted(order) != list(range(len(x.axes))):
        return " to an order of axes that is not known"
    axes = "".join(x.axes[axis] for axis in order)
    return " that swaps height and width" if axes.find("h") > axes.find("w") else x._replace(axes=axes)


def _squeezed(run: Run, x: Scores) -> Scores | str:
    """Without its axes of one."""
    if ONE in x.axes:
        return x._replace(axes=x.axes.replace(ONE, ""))
    if x.is_label:
        return x._replace(axes=UNKNOWN)
    is_last = x.axes.endswith("c") or run.inputs[0].size == (1, 1)
    return x._replace(axes=f"{UNKNOWN}c") if is_last else ", after which the classes' axis is not known"


def _expanded(run: Run, x: Scores) -> Scores | str:
    axis = next(iter(_numbers(run, 1) or ()), None)
    if axis is None:
        return " along an axis that is not known"
    if UNKNOWN in x.axes and axis >= 0:
        return x
    place = axis if axis >= 0 else len(x.axes) + 1 + axis
    return x._replace(axes=x.axes[:place] + ONE + x.axes[place:])


def _reshaped(run: Run, x: Scores) -> Scores | str:
    """A target that isn't known counts as one that fits, as do sizes in it."""
    target, size = _numbers(run, 1), run.inputs[0].size
    if not (x.is_label or x.axes.endswith("c")):
        return ", which mixes the classes' axis with others"
    if target is None:
        return x._replace(axes=UNKNOWN if x.is_label else f"{UNKNOWN}c")
    if not _in_order(target, size):
        return f" to {target}, which swaps height and width"
    if x.is_label:
        return x._replace(axes="bhw" if len(target) == 3 else UNKNOWN)
    if not _keeps_classes(target, size, x.num_classes):
        return f" to {target}, whose last axis isn't the classes'"
    is_map = len(target) == len(TENSORFLOW) and size in (None, tuple(target[1:3]))
    return x._replace(axes=TENSORFLOW if is_map else ONE * (len(target) - 1) + "c")


def _in_order(target: list[int], size: Size | None) -> bool:
    if size is None or not set(size) <= set(target):
        return True
    return size[0] == size[1] or target.index(size[0]) < target.index(size[1])


def _keeps_classes(target: list[int], size: Size | None, num_classes: int | None) -> bool:
    if target[-1] == -1:
        return len(target) > 1 and (size is None or abs(math.prod(target[:-1])) == math.prod(size))
    return target[-1] == 0 or num_classes in (None, target[-1])


def _strided(run: Run, x: Scores) -> Scores | str:
    begin, end, steps = (_numbers(run, place) for place in (1, 2, 3))
    from_start, to_end, single = run.masks
    begins = None if begin is None else [0 if from_start >> axis & 1 else one for axis, one in enumerate(begin)]
    if begins is None or any(begins) or steps is None or set(steps) != {1}:
        return " that doesn't take every pixel and class from the first on"
    ends = None if end is None else [0 if to_end >> axis & 1 else one for axis, one in enumerate(end)]
    axes = "".join(axis for place, axis in enumerate(x.axes) if not single >> place & 1)
    return _cut(x, ends, axes)


def _cut(x: Scores, ends: list[int] | None, axes: str) -> Scores | str:
    """`ends`: 0 where all is taken; `axes`: those that are left."""
    place = x.axes.find("c")
    last = ends[min(place, len(ends) - 1)] if ends and UNKNOWN not in x.axes else (ends or [0])[-1]
    is_short = last < 0 or 0 < last < (x.num_classes or 0)
    if not x.is_label and ("c" not in axes or (is_short and (ends is None or place < len(ends) or len(ends) < 3))):
        return " that leaves out classes"
    return x._replace(axes=axes)


def _sliced(run: Run, x: Scores) -> Scores | str:
    begin, sizes = (_numbers(run, place) for place in (1, 2))
    if begin is None or any(begin):
        return " that doesn't take every pixel and class from the first on"
    return _cut(x, None if sizes is None else [max(size, 0) for size in sizes], x.axes)


def _numbers(run: Run, place: int) -> list[int] | None:
    """Those of a constant among the inputs, if it is known."""
    array = run.inputs[place].array if len(run.inputs) > place else None
    return None if array is None or array.dtype.kind not in "iu" else array.reshape(-1).tolist()


RULES: dict[str, Rule] = {
    "identity": _same,
    INTEGERS: _rounded,
    "resize": _resized,
    SOFTMAX: _softmax,
    ARG_MAX: _arg_max,
    "transpose": _transposed,
    "squeeze": _squeezed,
    "expand_dims": _expanded,
    "reshape": _reshaped,
    **dict.fromkeys(("slice", "STRIDED_SLICE"), _strided),
    **dict.fromkeys(("Slice", "SLICE"), _sliced),
}

"""PyTorch's own exported files (.pt2), whose graph needs no code of this package.

PyTorch's reader unpickles what a file tells it to, and evaluates its expressions: only files without are read.
"""

import io
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule

from atrous.deployed import Deployment, traced
from atrous.errors import Mismatch, ModelFileError
from atrous.files import write_atomically
from atrous.layers import integer_kernels
from atrous.layers.quantization import write_as
from atrous.models import ModelConfig
from atrous.runtimes.contract import Runtime, Signature, failure, first_line, opened, require_images
from atrous.types import Network

EXTRA = "atrous"  # the file with our metadata, in PyTorch's folder for such
UNSAFE = re.compile(r"(^|/)data/(constants/(custom|opaque)_obj_|(weights|constants)/[^/]*\.pt$|aotinductor/)")
INPUTS = re.compile(r"(^|/)data/sample_inputs/[^/]*\.pt$")
WORDS = {"FloorDiv", "Mod", "PythonMod", "Max", "Min", "Eq", "Ne", "Le", "Lt", "Ge", "Gt", "And", "Or", "Not", "True"}
WORDS |= {"False", "CleanDiv", "CeilToInt", "IntTrueDiv", "ToFloat", "Identity", "Piecewise", "Where", "Abs", "Pow"}
WORDS |= {"Integer", "Rational", "Add", "Mul", "LessThan", "GreaterThan", "StrictLessThan", "StrictGreaterThan"}
WORDS |= {"Equality", "Unequality", "Infinity", "NegativeInfinity", "IntInfinity", "TruncToInt", "FloorToInt"}
SYMBOL = re.compile(r"Symbol\('([suz]\d+)'(?:, \w+=(?:True|False))*\)")
ASSERTIONS = {torch.ops.aten._assert_tensor_metadata.default, torch.ops.aten.sym_constrain_range_for_size.default}
CLOSE = 0.03  # the root mean square of differences to the largest value: where values lie at edges, 0.01 was seen
KINDS = {torch.uint8: "UINT8", torch.float32: "FLOAT"}
Names: TypeAlias = tuple[str, ...]  # of outputs
Compute: TypeAlias = Callable[[Tensor], Sequence[Tensor]]


def write(deployment: Deployment, path: Path) -> None:
    write_as(deployment.module, "plain")
    program = traced(deployment, named=True)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, content, extra_files={EXTRA: json.dumps(dict(deployment.metadata))})
    write_atomically(path, content.getvalue())


# ---- reading


def read_metadata(path: Path) -> Mapping[str, str]:
    """Raises ModelFileError for what is damaged, isn't an exported program, or could run code."""
    try:
        with zipfile.ZipFile(path) as archive:
            _require_harmless(archive, path)
            extra = [name for name in archive.namelist() if name.endswith(f"/extra/{EXTRA}")]
            metadata = json.loads(archive.read(extra[0])) if extra else {}
    except ModelFileError:
        raise
    except Exception as error:  # of the archive's reader: of any kind for a damaged file
        raise ModelFileError(f"{path}: not a complete .pt2 file (truncated, damaged or of another kind)") from error
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelFileError(f"{path}: its metadata is damaged: not text by key")
    return metadata


def _require_harmless(archive: zipfile.ZipFile, path: Path) -> None:
    names = archive.namelist()
    if len(set(names)) < len(names) or not any(re.search(r"(^|/)models/[^/]+\.json$", name) for name in names):
        raise ModelFileError(f"{path}: not an exported program of PyTorch")
    if (damaged := archive.testzip()) is not None:
        raise ModelFileError(f"{path}: damaged: {damaged} does not match its checksum")
    for name in names:
        if name.endswith(".json"):
            _require_plain(json.loads(archive.read(name)), path)
        elif UNSAFE.search(name) or (INPUTS.search(name) and not _is_plain(archive.read(name))):
            raise ModelFileError(f"{path}: {name} in it could run code; a file that Atrous has exported has none")


def _require_plain(tree: Any, path: Path) -> None:  # noqa: ANN401 - any JSON value
    """No pickled tensors, and only sums of sizes in expressions, which PyTorch evaluates as code."""
    for part in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        _require_plain(part, path)
    if not isinstance(tree, dict):
        return
    text = SYMBOL.sub(r"\1", str(tree.get("expr_str", "")))
    words = re.findall(r"[A-Za-z_]\w*", text)
    is_plain = re.fullmatch(r"[\w\s+\-*/%(),<>=!&|~]*", text) and all(
        word in WORDS or re.fullmatch(r"[suz]\d+", word) for word in words
    )
    if tree.get("use_pickle") or not is_plain:
        raise ModelFileError(f"{path}: it could run code ({text[:60] or 'a pickle'}); Atrous exports no such file")


def _is_plain(content: bytes) -> bool:
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception:  # for whatever it is, it isn't only tensors
        return False
    return True


def open_file(path: Path, config: ModelConfig, num_classes: int, device: torch.device) -> Network:
    metadata = read_metadata(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with path.open("rb") as file:  # a path must end in .pt2
                program = torch.export.load(file)
        signature = _signature(path, program)
        graph_for = partial(_graph_for, program, device)
        graph_for(())  # what is wrong with the file shows now
    except ModelFileError:
        raise
    except Exception as error:  # of PyTorch's reader: of any kind for a damaged graph
        raise ModelFileError(f"{path}: PyTorch can't read its graph: {first_line(error)}") from error

    graphs, compiled = cache(graph_for), cache(partial(_compiled, path, graph_for))

    def run(graph_of: Callable[[Names], Compute], images: NDArray[Any], names: Sequence[str]) -> list[NDArray[Any]]:
        try:
            with torch.inference_mode():
                outputs = graph_of(tuple(names))(torch.from_numpy(images).to(device))
        except Exception as error:
            raise failure(error) from error
        return [x.cpu().numpy() for x in outputs]

    by_compiler = None if signature.size is None else partial(run, compiled)
    return opened(path, metadata, signature, partial(run, graphs), by_compiler=by_compiler)


def _graph_for(program: ExportedProgram, device: torch.device, names: Names) -> GraphModule:
    """The part that computes these outputs. Bytes become floats in it anyway, so that it takes floats as well."""
    module = program.module(check_guards=False).to(device)
    graph = Graph()
    results: Any = graph.graph_copy(module.graph, {})
    outputs = dict(zip(_names(program), results, strict=True))
    graph.output([outputs[name] for name in names])
    for node in list(graph.nodes):
        if node.target in ASSERTIONS:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    return GraphModule(module, graph)


def _compiled(path: Path, graph_for: Callable[[Names], GraphModule], names: Names) -> Compute:
    """By `torch.compile`, in integers where the file has them and the processor has units for them.

    What it computes of the first images is compared with the graph itself. Raises Mismatch.
    """
    import torch._inductor.config as inductor

    graph, original = graph_for(names), graph_for(names)
    if integer_kernels.has_units():  # on a GPU the compiler makes floats of them again
        integer_kernels.use(graph)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, about its own
        fast: Compute = torch.compile(graph, dynamic=False)
    compared = set[torch.dtype]()

    def compute(images: Tensor) -> Sequence[Tensor]:
        if images.dtype in compared:
            return fast(images)
        with warnings.catch_warnings(), inductor.patch(freezing=True):  # weights are constants, else they stay floats
            warnings.simplefilter("ignore")
            outputs: Sequence[Tensor] = fast(images)
        _require_close(path, outputs, original(images))
        compared.add(images.dtype)
        return outputs

    return compute


def _require_close(path: Path, outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for x, y in zip(outputs, expected, strict=True):
        if not y.is_floating_point():
            continue
        largest = float(y.abs().max()) or 1.0
        deviation = float((x - y).double().square().mean().sqrt()) / largest
        if not deviation <= CLOSE:
            raise Mismatch(
                f"compile: what torch.compile makes of {path} computes something else (its outputs are {deviation:.1%} "
                "of the largest away, by the root mean square); leave --compile out"
            )


def _names(program: ExportedProgram) -> list[str]:
    return list(program.call_spec.out_spec.context)


def _signature(path: Path, program: ExportedProgram) -> Signature:
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    inputs = [(name, values[name]) for name in program.graph_signature.user_inputs]
    texts = [(str(name), KINDS.get(x.dtype, str(x.dtype)), _sides(x)) for name, x in inputs]
    sides = require_images(path, texts)
    names = program.call_spec.out_spec.context
    outputs = [values[name] for name in program.graph_signature.user_outputs]
    if not isinstance(names, list) or len(names) != len(outputs):
        raise ModelFileError(f"{path}: not exported by Atrous: its outputs have no names")
    return Signature(
        sides, {name: _sides(x)[1] if x.ndim > 1 else None for name, x in zip(names, outputs, strict=True)}
    )


def _sides(x: torch.Tensor) -> tuple[int | None, ...]:
    return tuple(side if isinstance(side, int) else None for side in x.shape)


def recognises(start: bytes) -> bool:
    """An archive with the folders of PyTorch's exported programs, of which those of weights come first."""
    return start[:4] == b"PK\x03\x04" and any(part in start for part in (b"/data/weights/", b"/archive_format"))


PT2 = Runtime(".pt2", read_metadata, open_file, write=write, groups=True, recognises=recognises)

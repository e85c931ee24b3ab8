"""What the tests of LiteRT's files share: a graph written and run, without a model around it."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atrous.runtimes.litert.flatbuffer import serialised
from atrous.runtimes.litert.graph import Operator, arranged, plain
from atrous.runtimes.litert.lowering import lower
from atrous.runtimes.litert.merging import merged

Function = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True, scope="session")
def litert() -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install '.[litert]'")


class Functions(nn.Module):
    """Several functions of one tensor, as one graph."""

    def __init__(self, functions: Mapping[str, Function]) -> None:
        super().__init__()
        self.functions = functions
        self.modules_ = nn.ModuleList([one for one in functions.values() if isinstance(one, nn.Module)])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(function(x) for function in self.functions.values())


def written(functions: Mapping[str, Function], x: Tensor) -> tuple[bytes, list[Operator]]:
    graph, (inp,), results = lower(torch.export.export(Functions(functions).eval(), (x,), strict=False))
    outputs = {
        name: arranged(graph, value, plain(len(value.order))) for name, value in zip(functions, results, strict=True)
    }
    operators = merged(graph, outputs.values())
    return serialised(graph, operators, {"x": inp.tensor}, outputs, {}), operators


def ran(content: bytes, x: Tensor) -> dict[str, NDArray[Any]]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x.numpy())
    interpreter.invoke()
    return {row["name"]: interpreter.get_tensor(row["index"]) for row in interpreter.get_output_details()}


def require_same(functions: Mapping[str, Function], x: Tensor) -> list[str]:
    """Compares each function with what LiteRT computes; returns the operators that do."""
    content, operators = written(functions, x)
    results = ran(content, x)
    for name, function in functions.items():
        with torch.no_grad():
            expected = function(x)
        assert results[name].shape == tuple(expected.shape), name
        assert np.allclose(results[name], expected.numpy(), rtol=1e-5, atol=1e-5), name
    return [operator.op for operator in operators]

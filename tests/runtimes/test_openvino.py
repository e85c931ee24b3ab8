"""OpenVINO's low-precision passes, on the smallest graph that they computed wrong."""

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from atrous.layers import quantization


class Shortcut(nn.Module):
    """A convolution without a bias, added to what another one makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, 3, 1, bias=False) for channels in (4, 3))
        nn.init.normal_(self.first.weight)
        nn.init.normal_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        sums: Tensor = y + self.second(y.relu())
        return sums


def test_a_shortcut_without_a_bias_is_right_at_any_size() -> None:
    openvino = pytest.importorskip("openvino")
    torch.manual_seed(0)
    part = Shortcut().eval()
    quantization.add_ranges(part)
    for name, one in quantization.ranges(part):
        one.set(-3.0 if name == "first" else 0.0, 3.0)
    quantization.to_integers(part)
    quantization.write_as(part, "products")
    x = torch.randn(1, 4, 17, 25)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own
        program = torch.export.export(part, (x,), dynamic_shapes={"x": {2: torch.export.Dim.AUTO}})
        model = openvino.convert_model(program)
    model.reshape(openvino.PartialShape([-1, 4, -1, -1]))
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert np.allclose(compiled(x.numpy())[0], part(x).detach().numpy(), atol=1e-3)

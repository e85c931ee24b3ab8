"""Batch norms whose statistics are those of all processes."""

from torch import Tensor, nn


def synchronized(model: nn.Module) -> nn.Module:
    """The model with `nn.SyncBatchNorm` for its batch norms, also for those with an activation in them, as in timm.

    PyTorch's conversion keeps such an activation as a child of the new norm, which never calls it.
    """
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    for module in converted.modules():
        if isinstance(module, nn.SyncBatchNorm) and list(module.children()):
            module.register_forward_hook(_and_children)
    return converted


def _and_children(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    for child in module.children():
        output = child(output)
    return output

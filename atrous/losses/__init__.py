"""Losses: pure functions from outputs and labels to named terms."""

from atrous.losses.semantic import (
    LossConfig,
    hard_pixel_share,
    median_frequency_weights,
    presence_loss,
    require_heads,
    semantic_loss,
)

__all__ = [
    "LossConfig",
    "hard_pixel_share",
    "median_frequency_weights",
    "presence_loss",
    "require_heads",
    "semantic_loss",
]

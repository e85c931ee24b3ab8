"""How images of any size are shown to a network: whole or in windows, at several scales, flipped."""

from typing import Literal

from pydantic import Field

from atrous.postprocess.crf import CRFName
from atrous.settings import Scales, Settings, Side


class InferenceConfig(Settings):
    """The protocol of a prediction. It is stored with every figure that was measured by it."""

    mode: Literal["whole", "sliding", "canvas"] = "whole"
    """Whole images, overlapping windows (large images, less memory), or a canvas of fixed size."""
    window: tuple[Side, Side] = (513, 513)
    """Height and width of a window or of the canvas in pixels; best the crop of the training."""
    overlap: float = Field(1 / 3, ge=0, le=0.95)
    """Sliding: share of a window that the next one repeats; more is smoother and slower."""
    blend: Literal["equal", "smooth"] = "equal"
    """Sliding: windows count equally where they overlap, as published, or fade out towards their edges."""
    base_size: Side | None = None  # semseg
    """Sliding: the longer side of the image at scale 1, in pixels; none: the image's own."""
    scales: Scales = (1.0,)
    """Sizes at which an image is seen; probabilities are averaged; each costs a pass."""
    flip: bool = False
    """Average with the horizontally flipped image: a little better, twice as slow."""
    pad_to_grid: bool = True
    """With aligned corners: images are padded to k * output stride + 1; false: shown at their own size."""
    output_stride: Literal[8, 16, 32] | None = None
    """Pixels per cell of the network's map: 8 is finer and slower than 16; none: as trained."""
    crf: CRFName | None = None  # rows of postprocess.crf.CRFS
    """Refine the result with a fully connected CRF, whose weights are those of a published model."""

    @property
    def is_single(self) -> bool:
        """One pass of the network is enough: there are no probabilities to average."""
        return self.mode != "sliding" and self.scales == (1.0,) and not self.flip and self.crf is None

    @property
    def is_one_slide(self) -> bool:
        """Windows over the images at their own size, and nothing after them."""
        return self.mode == "sliding" and self.scales == (1.0,) and self.base_size is None and self.crf is None

    @property
    def _resized(self) -> str:
        return f"longer side {self.base_size}, " if self.base_size else ""

    @property
    def _blended(self) -> str:
        return ", blended" if self.blend == "smooth" else ""

    def describe(self) -> dict[str, str]:
        height, width = self.window
        modes = {
            "whole": "whole image",
            "sliding": f"{self._resized}windows of {height} x {width}, {self.overlap:.0%} overlap{self._blended}",
            "canvas": f"on a canvas of {height} x {width}, shrunk to fit",
        }
        crf = {"CRF": self.crf} if self.crf else {}
        return {
            "image": modes[self.mode],
            "scales": ", ".join(f"{scale:g}" for scale in self.scales),
            "flipped too": "yes" if self.flip else "no",
            **crf,
        }

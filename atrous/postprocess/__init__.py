"""From probabilities to labels that keep to the edges of the image."""

from atrous.postprocess.crf import CRF, CRFS, CRFName, refine

__all__ = ["CRF", "CRFS", "CRFName", "refine"]

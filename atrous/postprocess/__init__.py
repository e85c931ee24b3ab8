"""Refines what a network predicts for an image by the image itself."""

from atrous.postprocess.crf import CRF, CRFS, CRFName, refine

__all__ = ["CRF", "CRFS", "CRFName", "refine"]

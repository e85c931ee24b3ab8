"""Refines the predictions of a network with the image itself."""

from atrous.postprocess.crf import CRF, CRFS, CRFName, refine

__all__ = ["CRF", "CRFS", "CRFName", "refine"]

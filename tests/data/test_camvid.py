"""CamVid's own files."""

import numpy as np
import pytest

from atrous.data import camvid
from tests.conftest import SHARED
from tests.data.conftest import semantic

CAMVID = SHARED / "data" / "camvid"


@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"no CamVid in {CAMVID}")
def test_camvid_itself_can_be_read() -> None:
    above = [*(camvid.CAMVID.names.index(name) for name in ("sky", "tree", "building")), camvid.CAMVID.ignore]
    for split, count in (("train", 367), ("val", 101), ("test", 233)):
        samples = camvid.samples(camvid.Config(root=CAMVID), split)
        assert len(samples) == count
        for sample in (samples[0], samples[count // 2], samples[-1]):
            assert sample.image.shape == (360, 480, 3)
            assert set(np.unique(semantic(sample))) <= set(range(12))
            assert np.isin(semantic(sample)[:20], above).mean() > 0.7

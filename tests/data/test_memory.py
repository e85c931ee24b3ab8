"""How much memory a small file can take, measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest

SIDE = 13_000
READ = """
import re, sys
from pathlib import Path
from atrous.data.pixels import read_image

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

before = peak()
assert read_image(sys.argv[1]).shape[2] == 3
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize(("mode", "bytes_per_pixel"), [("1", 1 + 3), ("P", 1 + 3), ("RGB", 4 + 3)])
def test_an_image_takes_its_pixels_as_pillow_has_them_and_as_rgb(
    tmp_path: Path, mode: str, bytes_per_pixel: int
) -> None:
    path = tmp_path / "a.png"
    PIL.Image.new(mode, (SIDE, SIDE)).save(path)
    assert path.stat().st_size < 600_000
    command = [sys.executable, "-W", "ignore", "-c", READ, str(path)]
    kilobytes = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert kilobytes * 1024 < 1.15 * bytes_per_pixel * SIDE**2

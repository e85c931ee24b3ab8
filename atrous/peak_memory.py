"""The most memory that this process takes, from one moment to another."""

import contextlib
import ctypes
import gc
import re
import sys
from pathlib import Path

import torch


def release_memory() -> None:
    """Give back what was freed, where the C library can: it would keep that for later, and count it to what follows."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # not the library of GNU
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):  # not Linux: then a peak is that of all before it
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> int:
    """Bytes: on a GPU those that PyTorch reserved, on a CPU those of the whole process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    if size := status("VmHWM"):
        return size
    import resource

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def status(name: str) -> int:
    """A line of the process's status, in bytes; 0 where there is none."""
    listing = Path("/proc/self/status")
    match = re.search(rf"^{name}:\s+(\d+) kB", listing.read_text(), re.MULTILINE) if listing.exists() else None
    return int(match[1]) * 1024 if match else 0

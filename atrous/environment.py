"""What a figure was measured with: date, versions, hardware."""

import contextlib
import os
import platform
import re
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch


def environment(device: torch.device) -> dict[str, str]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "date": date.today().isoformat(),
        "atrous": version("atrous"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": name,
        "threads": str(torch.get_num_threads()),
    }


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


CONTAINERS = (  # limit, usage and statistics of a container's memory, of both versions of cgroups
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def free_memory(device: torch.device) -> int:
    """Bytes that the device has left: of a CPU, what the system or the container would still give."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min([available_memory(Path("/proc/meminfo")), *left_in_containers(Path("/sys/fs/cgroup"))])


def available_memory(listing: Path) -> int:
    if listing.exists():
        kibibytes = re.search(r"^MemAvailable:\s+(\d+) kB", listing.read_text(), re.MULTILINE)
        if kibibytes is not None:
            return int(kibibytes[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2  # macOS doesn't say what is free


def left_in_containers(folder: Path) -> list[int]:
    """What the limits leave, files that are only cached not counted; [] where there are none."""
    left = []
    for names in CONTAINERS:
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            limit, usage = (int((folder / name).read_text()) for name in names[:2])
            cached = re.search(r"^(?:total_)?inactive_file (\d+)", (folder / names[2]).read_text(), re.MULTILINE)
            left.append(max(0, limit - usage + (int(cached[1]) if cached else 0)))
    return left

"""How much memory processes use, and how much is free."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def peak_gb() -> float:
    """Return this process's peak resident memory in GB (1e9 bytes).

    Linux keeps the high-water mark of the process that started this one in ``getrusage``
    through ``exec``; the status file counts this program alone.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        if found:
            return int(found[1]) * 1024 / 1e9
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def resident_gb(process: int) -> float:
    """Return the resident memory of a process in GB; 0 where /proc does not tell."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0  # it has just ended, or this is no Linux
    found = re.search(r"VmRSS:\s*(\d+) kB", status)
    return int(found[1]) * 1024 / 1e9 if found else 0.0


def available_gb() -> float:
    """Return the memory in GB that new processes may use: of the machine and of its container.

    0 where neither /proc nor a control group (version 2) tells.
    """
    found = []
    meminfo, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if meminfo.is_file():
        free = re.search(r"MemAvailable:\s*(\d+) kB", meminfo.read_text())
        if free:
            found.append(int(free[1]) * 1024 / 1e9)
    limit, used = group / "memory.max", group / "memory.current"
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        found.append((int(limit.read_text()) - int(used.read_text())) / 1e9)
    return min(found, default=0.0)

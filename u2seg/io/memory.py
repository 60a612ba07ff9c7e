"""How much memory this process has used at most."""

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

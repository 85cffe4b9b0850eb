"""How many CPU cores there are for this process."""

import os
from pathlib import Path


def available_cores() -> int:
    """Counts the CPU cores this process may use, by affinity and by the control group's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no control group, or no quota ("max")
        return cores

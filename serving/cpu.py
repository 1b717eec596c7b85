"""How many processors this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path


def cpu_limit(cgroups: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """Whole processors within the CPU affinity and the cgroup quota (v1 and v2), at least 1.

    More threads than this make one forward pass many times slower, because the quota stops all of them at once.
    """
    limits = [float(len(os.sched_getaffinity(0)))]
    limits += [quota for folder in _cgroup_folders(cgroups, membership) if (quota := _quota(folder)) is not None]
    return max(1, math.floor(min(limits)))


def _cgroup_folders(cgroups: Path, membership: Path) -> list[Path]:
    """Folders of the process's own group and its parents: any of them may set the quota."""
    folders = [cgroups, cgroups / "cpu", cgroups / "cpu,cpuacct"]
    try:
        lines = membership.read_text(encoding="ascii").splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / controllers if controllers else cgroups
        own = root / path.lstrip("/")
        folders += [own, *(parent for parent in own.parents if parent.is_relative_to(root))]
    return folders


def _quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)

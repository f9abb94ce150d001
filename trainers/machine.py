"""How much memory this machine has for one process: what is built in, or what a container, Slurm or systemd allows."""

from __future__ import annotations

import os
from pathlib import Path


def machine_memory(root: Path = Path("/")) -> float | None:
    """Bytes: the least of the memory built in and every limit of the control groups that this process is in."""
    found = [limit for limit in (_built_in(), *_limits(root)) if limit is not None]
    return min(found) if found else None


def _built_in() -> float | None:
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        return None


def _limits(root: Path) -> list[float]:
    """The limits of this process's control groups and those above them: version 2 (memory.max) and version 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found: list[float] = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            place, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            place, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # in a container the path is often the host's, and the container's own group is mounted at the top
        groups = [Path(group.lstrip("/")), *Path(group.lstrip("/")).parents]
        found += [limit for g in groups if (limit := _number(place / g / name)) is not None]
    return found


def _number(file: Path) -> float | None:
    """A limit in bytes; None where there is none ("max", or version 1's largest number)."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return float(text) if text.isdecimal() and int(text) < 1 << 60 else None

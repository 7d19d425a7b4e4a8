"""How much a store may hold: shares of the map, of the file system and of the memory limit."""

from __future__ import annotations

import os
from pathlib import Path

ORDINARY = 0.80
"""Share at which ordinary writes are refused: copy-on-write and fragments need the rest."""

URGENT = 0.95
"""Share at which tombstones, promises and deletions are refused too: a completely full map can
no longer delete, because every deletion copies pages first."""

MEMORY_SHARE = 4
"""At most one part in this many of a control group's memory limit: the rest is the application's
(pages of shared memory are charged to the group, and the group is killed for them)."""

_UNLIMITED = 1 << 60  # version 1 says "unlimited" as the largest multiple of a page


def capacity(size: int, descriptor: int, memory: int | None) -> int:
    """Bytes that the store in the open file can really have.

    Args:
        size: of the map.
        descriptor: of the data file, which may be sparse.
        memory: the control group's limit, None without one.
    """
    status, system = os.fstat(descriptor), os.fstatvfs(descriptor)
    reachable = status.st_blocks * 512 + system.f_bavail * system.f_frsize
    return min(size, reachable, size if memory is None else memory // MEMORY_SHARE)


def memory_limit(
    membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """The lowest memory limit of this process's control groups (versions 1 and 2), in bytes.

    Inside a container the paths that the kernel reports may not be visible; the root of what is
    mounted is then the container's own group, so every ancestor up to the root is asked.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    found: list[int] = []
    for line in lines:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0":
            found += _limits(root, path, "memory.max")
        elif "memory" in controllers.split(","):
            found += _limits(root / "memory", path, "memory.limit_in_bytes")
    return min((limit for limit in found if limit < _UNLIMITED), default=None)


def _limits(root: Path, path: str, name: str) -> list[int]:
    group = Path(os.path.normpath("/" + path.lstrip("/")))
    limits = []
    for ancestor in (group, *group.parents):
        try:
            text = (root / ancestor.relative_to("/") / name).read_text().strip()
        except OSError:
            continue
        if text.isdecimal():
            limits.append(int(text))
    return limits

"""Where the store of a node lives: memory that outlives a process, never a network file system."""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sessionha.errors import StoreError
from sessionha.store.locks import is_alive

_log = logging.getLogger("sessionha.store")

_NETWORK = re.compile(
    "9p|afs|beegfs|ceph|cifs|coda|davfs|drvfs|gfs2|glusterfs|gpfs|lustre|ncpfs|nfs4?|ocfs2"
    "|orangefs|prl_fs|smb[23]|smbfs|vboxsf|virtiofs|vmhgfs"
)
_LOCAL_FUSE = frozenset({"fuse.fuse-overlayfs", "fuseblk", "fuse.bindfs"})

VOLATILE = frozenset({"tmpfs", "ramfs"})
_SYSTEM_STATE = Path("/var/lib/sessionha")

_MOUNTS = Path("/proc/self/mountinfo")
_SHARED_MEMORY = Path("/dev/shm")


def choose(
    setting: str | None,
    *,
    name: str,
    size: int,
    shm: Path = _SHARED_MEMORY,
    fallbacks: Sequence[Path] | None = None,
    mounts: Path = _MOUNTS,
) -> Path:
    """The directory of the store `name`; nothing is made there except `sessionha-<uid>`.

    `setting` (SESSIONHA_STORE) is taken as it is; only a directory of another user, such as a
    mounted volume, gets a subdirectory. Without it: shared memory when `size` bytes are free
    there, else the first writable of `fallbacks` (a temporary directory), with one warning. A
    store whose engines live keeps its place, however much is free by now.

    Raises:
        StoreError: no place, another user's directory, or a network file system.
    """
    if setting is not None:
        return _local(_from_setting(Path(setting).expanduser().absolute(), name), mounts)
    own = f"sessionha-{os.geteuid()}"
    others = _temporary() if fallbacks is None else tuple(fallbacks)
    places = [base / own / name for base in (shm, *others)]
    for place in places:
        if is_alive(place):
            return _local(_private(place), mounts)
    if _is_writable(shm) and _free(shm, places[0]) >= size:
        return _local(_private(places[0]), mounts)
    for base, place in zip(others, places[1:], strict=True):
        if _is_writable(base) and _is_local(base, mounts):
            _warn(shm, place, size)
            return _private(place)
    raise StoreError(
        f"no place for the store: {shm} has less than {size} bytes free and none of"
        f" {', '.join(map(str, others))} can be written; set SESSIONHA_STORE to a directory on a"
        " tmpfs, or to `memory`"
    )


def durable(
    setting: Path | None,
    *,
    name: str,
    places: Sequence[Path] | None = None,
    mounts: Path = _MOUNTS,
) -> Path:
    """The directory `name` for what must survive a reboot; it is made.

    `setting` (SESSIONHA_STATE_DIR) is taken as it is, with a warning where it is memory. Without
    it: the first of `places` that can be written and is none.

    Raises:
        StoreError: no place, or it cannot be made.
    """
    if setting is not None:
        base = setting.expanduser().absolute()
        if file_system(base, mounts) in VOLATILE:
            _log.warning(
                "%s is memory: after a reboot this node has lost its votes, and a majority that"
                " has cannot go on by itself; set SESSIONHA_STATE_DIR to a directory on a disk",
                base,
            )
        return _made(base / name)
    tried = _states() if places is None else tuple(places)
    for base in tried:
        if file_system(base, mounts) in VOLATILE or not _is_writable(_existing(base)):
            continue
        return _made(base / name)
    raise StoreError(
        "no place for this node's votes: none of"
        f" {', '.join(map(str, tried))} is on a disk and can be written; set SESSIONHA_STATE_DIR to"
        " a directory that survives a reboot"
    )


def _states() -> tuple[Path, ...]:
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    own = Path(state).expanduser() / "sessionha"
    return (_SYSTEM_STATE, own) if os.geteuid() == 0 else (own, _SYSTEM_STATE)


def _existing(path: Path) -> Path:
    """The directory in which the path is, or would be made."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _made(place: Path) -> Path:
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise StoreError(
            f"{place}: {error.strerror}; set SESSIONHA_STATE_DIR to a directory that this user can"
            " write"
        ) from error
    return place


def file_system(path: Path, mounts: Path = _MOUNTS) -> str:
    """The type of the file system that `path` is, or would be, on; empty when unknown."""
    real = Path(os.path.realpath(path))
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    best, found = -1, ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        point = Path(_unescape(fields.split()[4]))
        if real.is_relative_to(point) and len(point.parts) >= best:
            best, found = len(point.parts), rest.split()[0]  # a later mount covers an earlier one
    return found


def _from_setting(path: Path, name: str) -> Path:
    try:
        status = path.stat()
    except OSError:
        return path
    return path if status.st_uid == os.geteuid() else path / name


def _local(path: Path, mounts: Path) -> Path:
    if not _is_local(path, mounts):
        raise StoreError(
            f"{path} is on a network file system ({file_system(path, mounts)}), where shared"
            " memory and locks do not work; set SESSIONHA_STORE to a directory on a tmpfs or a"
            " local disk"
        )
    return path


def _is_local(path: Path, mounts: Path) -> bool:
    kind = file_system(path, mounts)
    if kind.startswith("fuse"):
        return kind in _LOCAL_FUSE  # most of the others fetch from somewhere else
    return _NETWORK.fullmatch(kind) is None


def _private(place: Path) -> Path:
    """Make `sessionha-<uid>` (others may write its parent) and see that it is really ours."""
    base = place.parent
    try:
        base.mkdir(mode=0o700, exist_ok=True)
        status = base.lstat()
    except OSError as error:
        raise StoreError(
            f"{base}: {error.strerror}; remove it or set SESSIONHA_STORE to another directory"
        ) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise StoreError(
            f"{base} is not a directory of user {os.geteuid()}; remove it or set SESSIONHA_STORE"
            " to another directory"
        )
    if status.st_mode & 0o077:
        base.chmod(0o700)
    return place


def _temporary() -> tuple[Path, ...]:
    found = (Path(tempfile.gettempdir()), Path("/var/tmp"))
    return tuple(dict.fromkeys(found))


def _is_writable(base: Path) -> bool:
    return base.is_dir() and os.access(base, os.W_OK | os.X_OK)


def _free(base: Path, place: Path) -> int:
    """Bytes free there, with what the same store already has."""
    system = os.statvfs(base)
    try:
        had = (place / "data.mdb").stat().st_blocks * 512
    except OSError:
        had = 0
    return system.f_bavail * system.f_frsize + had


def _warn(shm: Path, place: Path, size: int) -> None:
    _log.warning(
        "%s has less than %d MiB free, so sessions are kept in %s, which is slower and may be a"
        " disk; give the container shared memory (docker run --shm-size=%dm; Kubernetes: an"
        " emptyDir with medium: Memory at %s, emptyDir.medium), or set SESSIONHA_STORE",
        shm,
        size >> 20,
        place,
        2 * size >> 20,
        shm,
    )


def _unescape(text: str) -> str:
    """Mount points are written with spaces and the like as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def current_boot() -> str:
    """Which boot of the machine this is. Raises OSError where the system does not tell."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()

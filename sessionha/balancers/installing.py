"""Puts a balancer's files in place: written whole, judged by the balancer, put back if refused."""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from sessionha.balancers.base import File, Files

PATIENCE: Final = 30.0
"""Seconds a command of the balancer may take; judging a configuration takes milliseconds."""

WORDS: Final = 2000
"""Characters of a command's output that are worth telling."""


class Outcome(NamedTuple):
    """How a command ended."""

    done: bool
    words: str


async def run(command: Sequence[str]) -> Outcome:
    """Run a balancer's own command; what it wrote, when it failed."""
    shown = " ".join(command)
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        return Outcome(False, f"{shown}: {error.strerror}")
    try:
        async with asyncio.timeout(PATIENCE):
            output, _ = await process.communicate()
    except TimeoutError:
        return Outcome(False, f"{shown} took longer than {PATIENCE:g} s")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 0:
        return Outcome(True, "")
    told = output.decode(errors="replace").strip()[-WORDS:]
    return Outcome(False, f"{shown} ends with {process.returncode}:\n{told}")


def write(place: Path, files: Files) -> None:
    """Write the files: readers see the old or the new one, whole. Those that are the same stay.

    Raises:
        OSError: the directory cannot be written.
    """
    _make(place)
    # What others refer to comes first: keys before the configuration that names them.
    for name, file in sorted(files.items(), key=lambda item: not item[1].private):
        path = place / name
        if _same(path, file):
            continue
        if file.text is None:
            path.unlink(missing_ok=True)
            continue
        mode = 0o600 if file.private else 0o644
        handle, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=place)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                os.fchmod(stream.fileno(), mode)
                stream.write(file.text)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


def _make(place: Path) -> None:
    """Directories that everybody may enter, whatever the umask is: a balancer's workers run as
    somebody else. What is secret is in files of the owner's."""
    if not place.is_dir():
        _make(place.parent)
        place.mkdir(exist_ok=True)
        place.chmod(0o755)


def unseen(place: Path, files: Files) -> str:
    """Why a running balancer may not see the files that it looks at by itself, and the remedy;
    empty: it does. One that reads keys while it runs does so as their owner."""
    live = [file for file in files.values() if file.live]
    if not live or any(file.private for file in live):
        return ""
    for each in (place, *place.parents):
        mode = each.stat().st_mode
        if not mode & stat.S_IXOTH:
            return (
                f"others than its owner may not enter {each} (mode {stat.S_IMODE(mode):o}): if the"
                f" balancer's workers run as somebody else, they do not see in {place} who drains"
                f" or is dead, and go on sending requests there: `chmod o+x {each}`"
            )
    return ""


def _same(path: Path, file: File) -> bool:
    if file.text is None:
        return not path.exists()
    try:
        if file.private and path.stat().st_mode & 0o077:
            return False
        return path.read_text(encoding="utf-8") == file.text
    except (OSError, UnicodeDecodeError):
        return False


def differing(place: Path, files: Files) -> Files:
    """Those that are not in place as they should be."""
    return {name: file for name, file in files.items() if not _same(place / name, file)}


async def install(place: Path, files: Files, check: Sequence[str]) -> Outcome:
    """Put files in place and let the balancer judge them; what it refuses is put back at once, and
    so is what it was not asked about: a file could not be written, or this was cancelled.

    Raises:
        OSError: the directory cannot be written.
    """
    before = {name: _kept(place / name) for name in files}
    try:
        write(place, files)
        found = await run(check) if check else Outcome(True, "")
    except BaseException:
        for name, file in before.items():  # what could not be written cannot be put back
            with suppress(OSError):
                write(place, {name: file})
        raise
    if not found.done:
        write(place, before)
    return found


def _kept(path: Path) -> File:
    try:
        private = not path.stat().st_mode & 0o077
        return File(path.read_text(encoding="utf-8"), private)
    except (OSError, UnicodeDecodeError):
        return File(None)

"""Kills the demo's processes and removes its files when the process that started them is gone.

Reads lines from its standard input: `+PGID` for a process group that was started, `-PGID` for one
that has ended, `!PATH` for a directory. The end of the input means that the writer has ended, in
whatever way; a supervisor that stopped in order leaves nothing to do.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterable


def read(lines: Iterable[str]) -> tuple[set[int], list[str]]:
    """The process groups and the directories that are left when the input ends."""
    groups: set[int] = set()
    directories: list[str] = []
    for line in lines:
        sign, value = line[:1], line[1:].rstrip("\n")
        if sign == "+":
            groups.add(int(value))
        elif sign == "-":
            groups.discard(int(value))
        elif sign == "!":
            directories.append(value)
    return groups, directories


def main() -> None:
    groups, directories = read(sys.stdin)
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()

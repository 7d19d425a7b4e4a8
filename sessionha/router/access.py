"""The access log: one line of JSON for each request, on request."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import msgspec

logger = logging.getLogger("sessionha.router")

AT_ONCE: Final = 256
"""Lines kept until the next write; there is one ten times a second anyway."""


class AccessLog:
    """Appends to a file, or to standard output where that is `-`.

    A line tells neither query, cookies nor any other header: what is secret stands there.
    """

    def __init__(self, file: str, now: Callable[[], datetime] | None = None) -> None:
        """Nothing is opened before the first line. `now`: the time of a line."""
        self._path = None if file == "-" else Path(file)
        self._now = now or (lambda: datetime.now(UTC))
        self._file: IO[bytes] | None = None
        self._lines: list[bytes] = []
        self._failing = False
        self._encode = msgspec.json.Encoder().encode

    def write(
        self,
        scope: dict[str, Any],
        status: int,
        size: int,
        took: float,
        server: str,
        attempts: int,
    ) -> None:
        """Add a line. `status` 0: the client left; `took`: seconds."""
        client = scope.get("client")
        line = {
            "time": self._now().isoformat(timespec="milliseconds"),
            "client": client[0] if client else "",
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "bytes": size,
            "ms": round(took * 1000, 1),
            "server": server,
            "attempts": attempts,
        }
        self._lines.append(self._encode(line))
        if len(self._lines) >= AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write what was kept; what cannot be written is dropped, for requests go on."""
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        try:
            if self._file is None:
                self._file = sys.stdout.buffer if self._path is None else self._path.open("ab")
            self._file.write(b"\n".join(lines) + b"\n")
            self._file.flush()
            self._failing = False
        except OSError as error:
            if not self._failing:
                logger.error("the access log cannot be written, its lines are dropped: %s", error)
            self._failing = True

    def reopen(self) -> None:
        """Go on in a new file of the same name: the old one was moved away."""
        self.close()

    def close(self) -> None:
        """Write what was kept and close the file; a later line opens it again."""
        self.flush()
        if self._file is not None and self._path is not None:
            self._file.close()
        self._file = None

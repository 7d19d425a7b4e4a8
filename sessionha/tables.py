"""The TOML file of a cluster, and on which lines its parts stand."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Final

TABLES: Final = ("cluster", "node")

_HEADER: Final = re.compile(r"\s*(\[\[?)\s*([A-Za-z0-9_.\"'-]+)\s*\]\]?")
_KEY: Final = re.compile(r"\s*[\"']?([A-Za-z0-9_-]+)[\"']?\s*=")


class TableFile:
    """What a file says; `problems` are those of its form."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError when it cannot be read, in words that follow its name."""
        self.path = path
        try:
            text = path.read_text(encoding="utf-8")
            found = tomllib.loads(text)
        except OSError as error:
            raise ValueError(f"cannot be read ({error.strerror}): correct the path") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"is not TOML: {error}") from None
        self.problems = [
            f"{path}: [{name}] is not a table that sessionha knows; it reads [cluster] and [[node]]"
            for name in found
            if name not in TABLES
        ]
        self.cluster: dict[str, Any] = found.get("cluster", {})
        if not isinstance(self.cluster, dict):
            self.problems.append(f"{path}: `cluster` must be a table: [cluster]")
            self.cluster = {}
        self.nodes: list[dict[str, Any]] = found.get("node", [])
        if not isinstance(self.nodes, list) or not all(isinstance(e, dict) for e in self.nodes):
            self.problems.append(f"{path}: write each node as a [[node]] table")
            self.nodes = []
        self._settings, self._tables = _lines(text)

    def setting(self, name: str) -> str:
        """Where a setting of `[cluster]` stands, for people."""
        line = self._settings.get(name)
        return f"{self.path}, line {line}" if line else str(self.path)

    def node(self, place: int) -> str:
        """Where a `[[node]]` table stands, counted from 0, for people."""
        if len(self._tables) != len(self.nodes):  # written in another way, or inside a text
            return f"{self.path}, [[node]] {place + 1}"
        return f"{self.path}, line {self._tables[place]}, [[node]]"


def _lines(text: str) -> tuple[dict[str, int], list[int]]:
    """The lines of the settings in `[cluster]`, and of the headers `[[node]]`."""
    settings: dict[str, int] = {}
    tables: list[int] = []
    header = ""
    for number, line in enumerate(text.splitlines(), 1):
        if found := _HEADER.match(line):
            header = found[1] + found[2].strip("\"'")
            if header == "[[node":
                tables.append(number)
        elif header == "[cluster" and (key := _KEY.match(line)):
            settings.setdefault(key[1], number)
    return settings, tables

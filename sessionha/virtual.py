"""Virtual servers: which application or tenant a request is for, by where it goes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from sessionha.identity import is_below, is_name

ELSEWHERE: Final = "*"
"""Stands for every request that nothing else stands for."""

_HOST = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\]")


@dataclass(frozen=True)
class VirtualServers:
    """The virtual servers of one application: one, or several by path and host.

    All of them are written down, so no request makes another one.
    """

    default: str = "default"
    """Where nothing else is said."""
    paths: tuple[tuple[str, str], ...] = ()
    """A path and the virtual server of what is below it, the longest path first."""
    hosts: tuple[tuple[str, str], ...] = ()
    """A host's name, or `*.` and a domain, the longest first; an exact name before its like."""

    @classmethod
    def read(cls, pairs: Iterable[tuple[str, str]]) -> VirtualServers:
        """Of a host or path each, and a virtual server's name.

        Raises:
            ValueError: one of them is none, or stands twice.
        """
        found: dict[str, str] = {}
        for given, name in pairs:
            place = given if given.startswith("/") else given.lower().rstrip(".")
            place = place.rstrip("/") or "/" if given.startswith("/") else place
            if not is_name(name):
                raise ValueError(f"must have names of virtual servers, and {name!r} is none")
            if not (place == ELSEWHERE or place.startswith("/") or _HOST.fullmatch(place)):
                raise ValueError(
                    f"must have hosts (without a port), paths or `*`, and {given!r} is none"
                )
            if found.setdefault(place, name) != name:
                raise ValueError(f"must name one virtual server for {given!r}, not two")
        default = found.pop(ELSEWHERE, cls.default)
        ordered = sorted(found.items(), key=lambda pair: (pair[0].startswith("*"), -len(pair[0])))
        paths = tuple(pair for pair in ordered if pair[0].startswith("/"))
        hosts = tuple(pair for pair in ordered if not pair[0].startswith("/"))
        return cls(default, paths, hosts)

    @property
    def names(self) -> frozenset[str]:
        """All of them."""
        return frozenset({self.default, *(name for _, name in self.paths + self.hosts)})

    def of(self, host: str, path: str) -> str:
        """The virtual server of a request: by the `Host` header, and the path as the client sees
        it. A path counts more than a host."""
        for prefix, name in self.paths:
            if is_below(path, prefix):
                return name
        if self.hosts:
            wanted = _without_port(host)
            for known, name in self.hosts:
                if wanted == known or (known[0] == "*" and wanted.endswith(known[1:])):
                    return name
        return self.default

    def as_mapping(self) -> Mapping[str, str]:
        """What `read` takes."""
        return {**dict(self.paths), **dict(self.hosts), ELSEWHERE: self.default}

    def __str__(self) -> str:
        if not self.paths and not self.hosts:
            return self.default
        return ",".join(f"{place}={name}" for place, name in self.as_mapping().items())


def _without_port(host: str) -> str:
    host = host.lower()
    name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
    return name.rstrip(".")

"""Hosts on one machine: network namespaces around a router that can be told to drop what it hears.

Needs Linux, `ip` and the right to make namespaces, nothing else: what goes from one host to another
is forwarded, and a rule that drops a packet without a word is a cable that is cut in one direction.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import socket
import subprocess
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

NEWNET = 0x40000000
"""CLONE_NEWNET of <sched.h>."""

HERE = "/proc/thread-self/ns/net"

FIRST_RULE = 100
"""Preference of the first cut; before the tables of routes, after the router's own addresses."""

ROUTING = {
    "ip_forward": "1",
    # Answers to a dropped direction are packets like others.
    "conf/all/rp_filter": "0",
    "conf/default/rp_filter": "0",
}

_libc = ctypes.CDLL(None, use_errno=True)


class Unavailable(Exception):
    """This machine does not let us make networks; says why."""


class Network:
    """One host for each name, all of which reach each other; clients sit at the router.

    The namespaces have no names and are held by this object and the processes in them: whatever
    happens, they are gone when those are.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(names)
        self._spaces: dict[str, int] = {}
        """Descriptors of the hosts' namespaces; the router's has no name."""
        self._cuts: dict[tuple[str, str], int] = {}
        self._rules = itertools.count(FIRST_RULE)

    def __enter__(self) -> Self:
        """Make it.

        Raises:
            Unavailable: something that is needed is missing here.
        """
        if shutil.which("ip") is None:
            raise Unavailable("network namespaces need `ip` (iproute2)")
        try:
            for name in ("", *self.names):
                self._spaces[name] = _new_space()
            self._wire()
        except (OSError, subprocess.CalledProcessError) as error:
            self.close()
            said = getattr(error, "stderr", "") or error
            raise Unavailable(f"network namespaces cannot be made here: {said}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the namespaces; safe to repeat."""
        while self._spaces:
            os.close(self._spaces.popitem()[1])

    def _wire(self) -> None:
        with self.inside(""):
            for name, value in ROUTING.items():
                with open(f"/proc/sys/net/ipv4/{name}", "w", encoding="ascii") as file:
                    file.write(value)
            _ip(
                "link set lo up",
                *(
                    line
                    for name in self.names
                    for line in (
                        f"link add to-{name} type veth peer name eth0"
                        f" netns /proc/{os.getpid()}/fd/{self._spaces[name]}",
                        f"address add {self._router_at(name)}/24 dev to-{name}",
                        f"link set to-{name} up",
                    )
                ),
            )
        for name in self.names:
            with self.inside(name):
                _ip(
                    "link set lo up",
                    f"address add {self.address(name)}/24 dev eth0",
                    "link set eth0 up",
                    f"route add default via {self._router_at(name)}",
                )

    def address(self, name: str) -> str:
        """Where the host is."""
        return f"10.77.{self.names.index(name) + 1}.2"

    def _router_at(self, name: str) -> str:
        return f"10.77.{self.names.index(name) + 1}.1"

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Processes started and sockets made by this thread meanwhile are at that host. Never
        `await` here."""
        before = os.open(HERE, os.O_RDONLY)
        try:
            _enter(self._spaces[name])
            try:
                yield
            finally:
                _enter(before)
        finally:
            os.close(before)

    def client(self, address: tuple[Any, ...]) -> socket.socket:
        """A socket at the router, as aiohttp's `socket_factory` makes them."""
        family, kind, protocol = address[:3]
        with self.inside(""):
            return socket.socket(family, kind, protocol)

    # --- cuts

    def cut(self, *ways: tuple[str, str]) -> None:
        """Drop what the first host of each pair sends to the second."""
        added = {way: next(self._rules) for way in ways if way not in self._cuts}
        self._change("add", added)
        self._cuts |= added

    def split(self, one: Collection[str], other: Collection[str]) -> None:
        """Cut both directions between two sides."""
        pairs = list(itertools.product(one, other))
        self.cut(*pairs, *((right, left) for left, right in pairs))

    def mend(self) -> None:
        """Everybody reaches everybody again."""
        self._change("delete", self._cuts)
        self._cuts.clear()

    def _change(self, verb: str, ways: dict[tuple[str, str], int]) -> None:
        with self.inside(""):
            _ip(
                *(
                    f"rule {verb} preference {preference} from {self.address(source)}"
                    f" to {self.address(target)} blackhole"
                    for (source, target), preference in ways.items()
                )
            )


def _new_space() -> int:
    """A descriptor of a new namespace; this thread stays where it is."""
    before = os.open(HERE, os.O_RDONLY)
    try:
        if _libc.unshare(NEWNET):
            raise _error()
        try:
            return os.open(HERE, os.O_RDONLY)
        finally:
            _enter(before)
    finally:
        os.close(before)


def _enter(space: int) -> None:
    if _libc.setns(space, NEWNET):
        raise _error()


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _ip(*lines: str) -> None:
    subprocess.run(
        ["ip", "-batch", "-"], input="\n".join(lines), text=True, capture_output=True, check=True
    )

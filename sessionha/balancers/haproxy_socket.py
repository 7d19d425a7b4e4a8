"""HAProxy's run-time API: brings what runs to other servers, names and keys without a reload."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Final, NamedTuple

PATIENCE: Final = 5.0
"""Seconds for one answer; HAProxy needs less than a millisecond."""

IDLE: Final = "pool-purge-delay 2s"
"""Idle connections are closed long before uvicorn's five seconds are over, so that a request seldom
meets a connection that its server is just closing."""

MAINTENANCE: Final = 0x01
"""Of a server's administrative state: somebody took it out by a command."""


class Unusable(Exception):
    """HAProxy cannot be brought there by commands: says why. A reload does it."""


class Entry(NamedTuple):
    """One server of one backend."""

    host: str
    port: int
    weight: int
    checks: str
    """How its health is looked after; empty: not at all."""

    @property
    def line(self) -> str:
        """How a configuration has it, after its name."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port} weight {self.weight} {IDLE} {self.checks}".rstrip()


class Running(NamedTuple):
    """What HAProxy tells of a server."""

    host: str
    port: int
    weight: int
    maintained: bool


Backends = Mapping[str, Mapping[str, Entry]]
"""By backend and name: the servers that there shall be."""


async def bring(
    socket: str, mark: str, maps: Mapping[str, Mapping[str, str]], to: Backends
) -> None:
    """Change what runs, until it has these entries in its maps and these servers.

    `mark`: the key of an entry that no command changes. Where it is another one, HAProxy runs with
    another configuration, in which more than servers is different.

    Raises:
        Unusable: nobody answers at the socket, or a command does not have its effect.
    """
    running = {file: entries(await ask(socket, f"show map {file}")) for file in maps}
    for file, wanted in maps.items():
        if running[file].get(mark) != wanted.get(mark):
            raise Unusable("it runs with another configuration")
    before = servers(await ask(socket, "show servers state"))
    removing = list(_removals(before, to))
    for command in (*_additions(before, to), *_map_changes(running, maps), *removing):
        await ask(socket, command)
    running = {file: entries(await ask(socket, f"show map {file}")) for file in maps}
    after = servers(await ask(socket, "show servers state"))
    if running != {file: dict(wanted) for file, wanted in maps.items()}:
        raise Unusable("a map was not changed")
    if list(_additions(after, to)):
        raise Unusable("a server was not changed")


async def ask(socket: str, command: str) -> str:
    """What HAProxy answers.

    Raises:
        Unusable: nobody answers there.
    """
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await _connect(socket)
            try:
                writer.write(f"{command}\n".encode())
                return (await reader.read()).decode(errors="replace")
            finally:
                writer.close()
    except (OSError, ValueError, TimeoutError) as error:
        raise Unusable(f"{socket} does not answer: {error}") from error


async def _connect(socket: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, colon, port = socket.rpartition(":")
    if colon and "/" not in socket:
        return await asyncio.open_connection(host.strip("[]"), int(port))
    return await asyncio.open_unix_connection(socket)


def entries(told: str) -> dict[str, str]:
    """A map, from what `show map` tells: a line for each entry, an address before it."""
    rows = (line.split(" ", 2) for line in told.splitlines())
    return {row[1]: row[2] for row in rows if len(row) == 3}


def servers(told: str) -> dict[str, dict[str, Running]]:
    """By backend and name, from what `show servers state` tells."""
    found: dict[str, dict[str, Running]] = {}
    header: list[str] = []
    for line in told.splitlines():
        if line.startswith("# "):
            header = line[2:].split()
        elif header and line:
            row = dict(zip(header, line.split(), strict=False))
            found.setdefault(row["be_name"], {})[row["srv_name"]] = Running(
                row["srv_addr"],
                int(row["srv_port"]),
                int(row["srv_uweight"]),
                bool(int(row["srv_admin_state"]) & MAINTENANCE),
            )
    return found


def _additions(running: Mapping[str, Mapping[str, Running]], to: Backends) -> Iterator[str]:
    """What makes every server that shall be there as it shall be."""
    for backend, wanted in to.items():
        for name, entry in wanted.items():
            full, there = f"{backend}/{name}", running.get(backend, {}).get(name)
            if there is None:
                yield from _addition(full, entry)
                continue
            if _is_address(entry.host) and (there.host, there.port) != (entry.host, entry.port):
                yield f"set server {full} addr {entry.host} port {entry.port}"
            if there.weight != entry.weight:
                yield f"set server {full} weight {entry.weight}"
            if there.maintained:
                yield f"set server {full} state ready"


def _addition(full: str, entry: Entry) -> Iterator[str]:
    if not _is_address(entry.host):
        raise Unusable(f"{entry.host} must be looked up, which happens at a start only")
    yield f"add server {full} {entry.line}"
    if entry.checks:
        yield f"enable health {full}"
    yield f"enable server {full}"


def _removals(running: Mapping[str, Mapping[str, Running]], to: Backends) -> Iterator[str]:
    """What takes out who shall not be there: at once from service, and from the list of servers
    once nobody is connected to it, now or at a later change."""
    for backend, wanted in to.items():
        for name in running.get(backend, {}):
            if name not in wanted and not name.startswith("next_"):
                yield f"set server {backend}/{name} state maint"
                yield f"del server {backend}/{name}"


def _map_changes(
    running: Mapping[str, Mapping[str, str]], to: Mapping[str, Mapping[str, str]]
) -> Iterator[str]:
    for file, wanted in to.items():
        there = running[file]
        for key, value in wanted.items():
            if key not in there:
                yield f"add map {file} {key} {value}"
            elif there[key] != value:
                yield f"set map {file} {key} {value}"
        yield from (f"del map {file} {key}" for key in there if key not in wanted)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True

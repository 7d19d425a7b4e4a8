"""Looks for what is wrong with a node: asks it, and tries from outside what others would."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sessionha.admin.checks import Finding
from sessionha.cli import asking
from sessionha.cli.canaries import Canaries
from sessionha.cli.front import Tour, diagnose
from sessionha.errors import InvalidSettings, StoreError
from sessionha.settings import Settings
from sessionha.store.place import choose
from sessionha.topology.description import split_address

TIMEOUT: Final = 10.0
"""Seconds: the node asks every other one, and waits two seconds for those that are silent."""

TRY: Final = 2.0
"""Seconds that a server has to accept a connection, and to say that it lives."""

_COLOURS: Final = {"ok": "green", "warn": "yellow", "fail": "red"}


class Examination:
    """What was found, and of which node."""

    def __init__(self, found: Sequence[Finding], node: str | None = None) -> None:
        self.node = node
        self.findings = tuple(found)

    @property
    def healthy(self) -> bool:
        """Whether nothing failed."""
        return all(finding.outcome != "fail" for finding in self.findings)

    def as_json(self) -> str:
        """For programs."""
        rows = [finding._asdict() for finding in self.findings]
        return json.dumps({"node": self.node, "ok": self.healthy, "checks": rows}, indent=2)

    def show(self, console: Console) -> None:
        """For people: problems with their remedies below them."""
        table = Table(box=box.SIMPLE_HEAD)
        for heading in ("check", "", "found"):
            table.add_column(heading, overflow="fold")
        for finding in self.findings:
            words = f"{finding.found}\n→ {finding.remedy}" if finding.remedy else finding.found
            outcome = Text(finding.outcome, style=_COLOURS.get(finding.outcome, ""))
            table.add_row(Text(finding.check), outcome, Text(words))
        console.print(table)


def examine(file: Path | None, url: str | None, engines: int | None) -> Examination:
    """Look at the node at `url`, by default this machine's, or at what stands in front of nodes
    where `url` is no node's administration. `engines`: how many should live."""
    try:
        settings = Settings.observe(config=file)
        address, bearer = asking.address_of(settings, url), asking.token(settings, "read")
    except InvalidSettings as error:
        return Examination([_unusable(problem) for problem in error.problems])
    if url is not None and "://" in url and not asking.is_administration(address):
        parts = urlsplit(url)
        seen = Canaries(url, settings).run()
        return Examination(diagnose(Tour(seen, parts.path or "/", parts.hostname or "")))
    try:
        answer = asking.ask(address, "/v1/doctor", bearer, has="checks", timeout=TIMEOUT)
    except asking.Unreached as problem:
        remedy = "start it: a WSGI server needs a hook, or has no node before its first request"
        unreached = Finding("administration", "fail", str(problem), remedy)
        return Examination([unreached, *(_before_a_start(file) if url is None else ())])
    except asking.NoAnswer as problem:
        return Examination([Finding("administration", "fail", str(problem))])
    found = [_read(row) for row in answer["checks"]]
    return Examination([*found, *_engines(answer, engines), *_application(answer)], answer["node"])


def _unusable(problem: str) -> Finding:
    return Finding("settings", "fail", problem, "correct the environment, or the file (`config`)")


def _read(row: Mapping[str, Any]) -> Finding:
    return Finding(*(str(row.get(name, "")) for name in Finding._fields))  # type: ignore[arg-type]


# --- a node that runs -----------------------------------------------------------------------------


def _engines(answer: Mapping[str, Any], expected: int | None) -> Iterator[Finding]:
    living = len(answer["engines"])
    if expected is None:
        return
    words = f"{living} live, {expected} should"
    if living == expected:
        yield Finding("engines", "ok", words)
    else:
        remedy = "see the server's log for workers that do not start, or end; compare its settings"
        yield Finding("engines", "fail", words, remedy)


def _application(answer: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether the application answers where routers are sent to."""
    url, prefix = answer["url"], answer["health_path"]
    if not url:
        return
    error = _connected(url) if not prefix else _alive(f"{url}{prefix.rstrip('/')}/healthz")
    if error:
        remedy = "correct `url`, or start the application there; routers send clients to it"
        yield Finding("application", "fail", f"{url}: {error}", remedy)
    else:
        yield Finding("application", "ok", f"it answers at {url}")


def _alive(url: str) -> str:
    """Why that is no living server; empty when it is one."""
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=TRY):
            return ""
    except HTTPError as error:
        return f"/healthz answers {error.code}"
    except (URLError, OSError, HTTPException, ValueError) as error:
        return f"/healthz: {getattr(error, 'reason', None) or error}"


def _connected(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return _accepts(parts.hostname or "", port)


def _accepts(host: str, port: int) -> str:
    """Why nobody accepts connections there; empty when somebody does."""
    try:
        socket.create_connection((host, port), timeout=TRY).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


# --- a node that does not -------------------------------------------------------------------------


def _before_a_start(file: Path | None) -> Iterator[Finding]:
    """What a node that was started here, with this environment and by this user, would meet."""
    try:
        settings = Settings.load(config=file)
    except InvalidSettings as error:
        yield from map(_unusable, error.problems)
        return
    yield Finding("settings", "ok", f"a node `{settings.node}` could start with these")
    yield from _store(settings)
    for node, address in settings.description.addresses.items():
        if node != settings.node:
            yield _peer(node, address)


def _store(settings: Settings) -> Iterator[Finding]:
    if settings.store == "memory":
        return
    name = f"{settings.cluster}-{settings.node}"
    said = _Said()
    logger = logging.getLogger("sessionha.store")
    logger.addHandler(said)
    try:
        place = choose(settings.store or None, name=name, size=settings.store_size)
    except StoreError as error:
        yield Finding("store", "fail", str(error))
        return
    finally:
        logger.removeHandler(said)
    if said.words:
        yield Finding("store", "warn", said.words)
    else:
        yield Finding("store", "ok", f"user {os.geteuid()} would keep sessions in {place}")


class _Said(logging.Handler):
    """Keeps what is said while the place of a store is chosen."""

    words = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.words = record.getMessage()


def _peer(node: str, address: str) -> Finding:
    error = _accepts(*split_address(address))
    if not error:
        return Finding("peers", "ok", f"{node} accepts connections at {address}")
    remedy = "start it, correct its address in `nodes`, or let TCP through to that port"
    return Finding("peers", "warn", f"{node} at {address}: {error}", remedy)

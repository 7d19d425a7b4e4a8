"""The static description of a cluster: its nodes in order, checked with all mistakes at once."""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, get_args
from urllib.parse import urlsplit

import msgspec

from sessionha.errors import InvalidSettings
from sessionha.identity import is_name, server_name
from sessionha.view import EngineAddress, Node, Role

KEYS = ("id", "peer", "url", "zone", "host", "weight", "role", "engines")
"""What a `[[node]]` table may say; `id` and `peer` it must."""

ENGINE_KEYS = ("id", "type", "url")
"""What an entry of `engines` may say; its place is its ID where none is told."""

MAX_ENGINES = 64
"""Of one node: more is a mistake in a file."""

MAX_NODES = 4096
"""More is a mistake in a file, not a cluster."""

MAX_WEIGHT = 1000


class Description(msgspec.Struct, frozen=True, dict=True):
    """The configured nodes. Their order decides who watches whom."""

    nodes: tuple[Node, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Description:
        """Read the short form, `n1=http://10.0.0.1:7946,n2=…`: IDs and peer addresses.

        Raises:
            InvalidSettings: every mistake that the text has.
        """
        problems: list[str] = []
        rows: list[Mapping[str, Any]] = []
        for entry in filter(None, (part.strip() for part in text.split(","))):
            node, equals, address = (part.strip() for part in entry.partition("="))
            if equals:
                rows.append({"id": node, "peer": address})
            else:
                problems.append(f"`nodes`: {entry!r} is not of the form NODE=http://HOST:PORT")
        if not rows and not problems:
            problems.append("`nodes` names no node; write n1=http://10.0.0.1:7946,n2=…")
        return cls._checked(rows, "nodes", problems)

    @classmethod
    def of_tables(
        cls, tables: Iterable[Mapping[str, Any]], where: Callable[[int], str] | None = None
    ) -> Description:
        """Read `[[node]]` tables; `where` tells of each, counted from 0, where it stands.

        Raises:
            InvalidSettings: every mistake that the tables have.
        """
        return cls._checked(tables, "[[node]]", [], where)

    @classmethod
    def _checked(
        cls,
        rows: Iterable[Mapping[str, Any]],
        source: str,
        problems: list[str],
        where: Callable[[int], str] | None = None,
    ) -> Description:
        nodes = []
        for place, row in enumerate(rows):
            label = where(place) if where is not None else f"`{source}`"
            label += f": node {row.get('id') or f'number {place + 1}'!s}"
            node = _node(row, label, problems)
            if node is not None:
                nodes.append(node)
        problems.extend(f"`{source}`: {text}" for text in _clashes(nodes))
        if problems:
            raise InvalidSettings(problems)
        return cls(tuple(nodes))

    @cached_property
    def hash(self) -> str:
        """The same for the same nodes in the same order: 16 hexadecimal characters."""
        return hashlib.blake2b(msgspec.msgpack.encode(self.nodes), digest_size=8).hexdigest()

    def node(self, node: str) -> Node | None:
        """The configured node of this ID, if there is one."""
        return next((each for each in self.nodes if each.node == node), None)

    @property
    def servers(self) -> tuple[Node, ...]:
        """Those that hold sessions: all but witnesses."""
        return tuple(each for each in self.nodes if each.role != "witness")

    @cached_property
    def order(self) -> tuple[str, ...]:
        """The configured node IDs, in the description's order."""
        return tuple(each.node for each in self.nodes)

    @cached_property
    def addresses(self) -> dict[str, str]:
        """Node ID to peer address."""
        return {each.node: each.peer for each in self.nodes}


DIFFERENCES = 6
"""Told of two descriptions at most; a whole list helps nobody."""


def differences(mine: Description, theirs: Description) -> list[str]:
    """In what two descriptions differ, for people: at most a few, and how many more there are."""
    found = [f"{node} is missing there" for node in mine.order if theirs.node(node) is None]
    found += [f"{node} is missing here" for node in theirs.order if mine.node(node) is None]
    found += [
        f"{node}: `{name}` {here} here, {there} there"
        for node, name, here, there in _fields(mine, theirs)
    ]
    return _short([*found, *_order(mine, theirs)])


def changes(before: Description, after: Description) -> list[str]:
    """What a new description changes, for people: at most a few, and how many more there are."""
    found = [f"{node} added" for node in after.order if before.node(node) is None]
    found += [f"{node} removed" for node in before.order if after.node(node) is None]
    found += [f"{node}: `{name}` {old} → {new}" for node, name, old, new in _fields(before, after)]
    return _short([*found, *_order(before, after)])


def _short(found: list[str]) -> list[str]:
    more = len(found) - DIFFERENCES
    return [*found[:DIFFERENCES], f"and {more} more"] if more > 0 else found


def _order(one: Description, other: Description) -> list[str]:
    common = [node for node in one.order if other.node(node) is not None]
    same = common == [node for node in other.order if one.node(node) is not None]
    return [] if same else ["the order of the nodes"]


def _fields(one: Description, other: Description) -> Iterator[tuple[str, str, str, str]]:
    for each in one.nodes:
        theirs = other.node(each.node)
        for name in each.__struct_fields__:
            old, new = getattr(each, name), getattr(theirs or each, name)
            if old != new:
                yield each.node, name, _shown(old), _shown(new)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{each.engine} ({each.type}) {each.url}".strip() for each in value) or "–"
    return str(value) or "–"


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`; ValueError for anything else."""
    parts = urlsplit(f"//{address}")
    if parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("not host:port")
    if not parts.hostname or not parts.port:
        raise ValueError("not host:port")
    return parts.hostname, parts.port


def same_host(one: str, other: str) -> bool:
    """Whether two peer addresses are on one machine, so that a refused connection proves that the
    other's processes are gone (R2a): the same host, or loopback both."""
    first, second = split_address(one)[0], split_address(other)[0]
    return first == second or (_is_loopback(first) and _is_loopback(second))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _node(row: Mapping[str, Any], label: str, problems: list[str]) -> Node | None:
    found = [f"{label}: {text}" for text in _mistakes(row)]
    problems.extend(found)
    if found:
        return None
    peer = _peer_address(row["peer"])
    return Node(
        node=row["id"],
        peer=peer,
        url=row.get("url", "").rstrip("/"),
        zone=row.get("zone", ""),
        host=row.get("host") or split_address(peer)[0],
        weight=row.get("weight", 1),
        role=row.get("role", "server"),
        engines=tuple(_engines(row)),
    )


def _engines(row: Mapping[str, Any]) -> Iterator[EngineAddress]:
    for place, entry in enumerate(row.get("engines", ())):
        engine, url = entry.get("id", str(place)), entry.get("url", "").rstrip("/")
        yield EngineAddress(engine, entry.get("type", "web"), url)


def _mistakes(row: Mapping[str, Any]) -> Iterable[str]:
    for key in row:
        if key not in KEYS:
            yield _unknown(key, KEYS)
    for key in ("id", "peer", "url", "zone", "host", "role"):
        if not isinstance(row.get(key, ""), str):
            yield f"`{key}` must be text"
            return
    if not is_name(row.get("id", "")):
        yield "`id` must be 1 to 64 letters, digits, dots, dashes or underscores"
    if not _is_peer(row.get("peer", "")):
        yield f"`peer` must be http://HOST:PORT or HOST:PORT, not {row.get('peer', '')!r}"
    url = row.get("url", "")
    if url and not _is_url(url):
        yield f"`url` must be http://HOST[:PORT] or https://…, not {url!r}"
    if row.get("role", "server") not in get_args(Role):
        yield f"`role` must be one of {', '.join(get_args(Role))}"
    weight = row.get("weight", 1)
    if type(weight) is not int or not 1 <= weight <= MAX_WEIGHT:
        yield f"`weight` must be a whole number from 1 to {MAX_WEIGHT}"
    yield from _mistakes_of_engines(row.get("engines", []))


def _mistakes_of_engines(entries: Any) -> Iterator[str]:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        yield '`engines` must be a list such as [{type = "web", url = "http://10.0.0.1:8001"}]'
        return
    if len(entries) > MAX_ENGINES:
        yield f"`engines` has {len(entries)} entries, more than {MAX_ENGINES}"
    ids: set[str] = set()
    urls: set[str] = set()
    for place, entry in enumerate(entries):
        engine, url = entry.get("id", str(place)), entry.get("url", "")
        label = f"`engines`, {engine!r}"
        for key in entry:
            if key not in ENGINE_KEYS:
                yield f"{label}: {_unknown(key, ENGINE_KEYS)}"
        for key, value in (("id", engine), ("type", entry.get("type", "web"))):
            if not isinstance(value, str) or not is_name(value):
                yield f"{label}: `{key}` must be a name, not {value!r}"
        if not isinstance(url, str) or (url and not _is_url(url)):
            yield f"{label}: `url` must be http://HOST[:PORT] or https://…, not {url!r}"
        elif url in urls:
            yield f"{label}: another engine has its `url` {url}"
        if str(engine) in ids:
            yield f"{label} stands twice; every engine of a node needs an `id` of its own"
        ids.add(str(engine))
        urls |= {str(url)} - {""}


def _unknown(key: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(key, known, 1)
    return f"unknown key `{key}`" + (f"; did you mean `{near[0]}`?" if near else "")


def _peer_address(text: str) -> str:
    """`host:port` of a peer address that may be written as a URL; ValueError if it is none."""
    scheme, slashes, rest = text.partition("://")
    if slashes and scheme not in ("http", "https"):
        raise ValueError("not http")
    address = (rest if slashes else text).removesuffix("/")
    split_address(address)
    return address.lower()


def _is_peer(text: str) -> bool:
    try:
        _peer_address(text)
    except ValueError:
        return False
    return True


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and port != 0
        and not (parts.query or parts.fragment or parts.username)
    )


def _clashes(nodes: list[Node]) -> Iterable[str]:
    if len(nodes) > MAX_NODES:
        yield f"{len(nodes)} nodes are more than {MAX_NODES}"
    ids: set[str] = set()
    names: dict[str, str] = {}
    peers: dict[str, str] = {}
    for each in nodes:
        if each.node in ids:
            yield f"node ID {each.node!r} stands twice; every node needs its own"
            continue
        ids.add(each.node)
        name = server_name(each.node)
        if name in names:
            yield (
                f"nodes {names[name]!r} and {each.node!r} have one short name ({name}) in cookies;"
                " rename one"
            )
        if each.peer in peers:
            yield f"nodes {peers[each.peer]!r} and {each.node!r} have one peer address {each.peer}"
        names.setdefault(name, each.node)
        peers.setdefault(each.peer, each.node)

"""The one document from which every balancer is configured: the cookie, health, the servers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from sessionha.balancers.table import Table, Target
from sessionha.errors import InvalidSettings
from sessionha.identity import is_name, is_server_name, server_name
from sessionha.keys import ROUTE_LABEL
from sessionha.kinds import is_health_path
from sessionha.session.cookies import ROUTE_CHARS, ROUTE_PATTERN, ROUTE_SERVERS, RouteCookies
from sessionha.settings import Settings
from sessionha.topology.health import NodeState, state_of
from sessionha.view import Node, View

FORMAT: Final = 1

State = Literal["up", "drain", "down", "gone"]
"""`up`: takes clients. `drain`: a member that takes none, tried when nobody else is left. `down`:
awaited, and no member now. `gone`: left for good."""

_COOKIE: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"[A-Za-z0-9_-](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?\.?|[0-9A-Fa-f:.]+")


class Cookie(msgspec.Struct, frozen=True, kw_only=True):
    """How to find the names of a client's servers, the best first."""

    name: str
    expression: str = ROUTE_PATTERN
    """Groups: server names with `~` between them, opaque part, key ID, signature (HMAC-SHA256 over
    all before the last dot, URL-safe base64)."""
    most_servers: int = ROUTE_SERVERS
    most_characters: int = ROUTE_CHARS


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says of itself."""

    path: str
    """On the application's port; empty: it has no such page (`health_path` is off)."""
    up: tuple[int, ...] = (200,)
    drain: tuple[int, ...] = (404,)


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A node, or an engine of one that has an address of its own."""

    name: str
    """As cookies have it: at most 16 characters of `[a-z0-9-]`."""
    node: str
    state: State
    url: str
    aliases: tuple[str, ...] = ()
    """Other names in cookies that lead here: those of engines that are not published now, and the
    node's own where its engines are published one by one."""
    engine: str = ""
    types: tuple[str, ...] = ()
    """Engine types that answer there; empty: any."""
    spare: bool = False
    """Gets clients that are nobody's when no other server is left."""
    weight: int = 1
    zone: str = ""
    incarnation: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that leads here."""
        return (self.name, *self.aliases)

    @property
    def is_plain(self) -> bool:
        """Whether its address can stand in any balancer's configuration, and means nothing more
        there: a node that somebody has taken over tells what it likes."""
        try:
            return (
                self.scheme in _PORTS and _HOST.fullmatch(self.host) is not None and self.port > 0
            )
        except ValueError:  # a port that is none
            return False

    @property
    def scheme(self) -> str:
        """`http` or `https`."""
        return urlsplit(self.url).scheme

    @property
    def host(self) -> str:
        """Without brackets."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """As told, or as the scheme has it."""
        return urlsplit(self.url).port or _PORTS[self.scheme]

    @property
    def address(self) -> str:
        """`host:port`, with brackets around an IPv6 address."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Document(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Everything but the keys, which are secret and travel apart."""

    format: int = FORMAT
    cluster: str
    view: int
    """The number of the view it was made from; 0: of the configured nodes, whoever lives."""
    cookie: Cookie
    health: Health
    servers: tuple[Server, ...]

    @cached_property
    def text(self) -> bytes:
        """The document as JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @cached_property
    def version(self) -> str:
        """The same for the same content, and for no other."""
        return hashlib.sha256(self.text).hexdigest()[:16]

    # The tiers of the affinity rule: the servers that the cookie names, as far as they are in
    # `routable`, then `ready`, `spares`, `draining`; within a tier any order (`weight` counts).

    @property
    def routable(self) -> tuple[Server, ...]:
        """Those that serve a client whose cookie names them."""
        return tuple(each for each in self.servers if each.state == "up")

    @property
    def ready(self) -> tuple[Server, ...]:
        """Those that take clients that are nobody's."""
        return tuple(each for each in self.routable if not each.spare)

    @property
    def spares(self) -> tuple[Server, ...]:
        """Those that do so when none of `ready` answers."""
        return tuple(each for each in self.routable if each.spare)

    @property
    def known(self) -> tuple[Server, ...]:
        """All that may be members, now or soon."""
        return tuple(each for each in self.servers if each.url and each.state != "gone")

    @property
    def draining(self) -> tuple[Server, ...]:
        """Those that are tried when nobody else is left."""
        return tuple(each for each in self.servers if each.state == "drain")


def document_of(view: View, settings: Settings, before: Document | None = None) -> Document:
    """What a balancer is told when this is the cluster's view; `before`: what it was told last,
    for where nodes are that are no members now."""
    members = set(view.nodes)
    absent = [node for node in settings.description.servers if node.node not in members]
    return Document(
        cluster=settings.cluster,
        view=view.id.number,
        cookie=Cookie(name=settings.route_cookie),
        health=Health(path=_readyz(settings.health_path)),
        servers=tuple(sorted((*_servers(view), *_absent(absent, view, before)), key=_name)),
    )


def configured(settings: Settings) -> Document:
    """The same from the configured nodes alone, as if all of them were ready.

    Raises:
        InvalidSettings: the nodes are not written down, or without the addresses of applications.
    """
    nodes = settings.description.servers
    lacking = [n.node for n in nodes if not n.url and not any(e.url for e in n.engines)]
    if not nodes:
        problem = "no nodes are written down: name a file with their tables by --cluster FILE"
        raise InvalidSettings([problem])
    if lacking:
        raise InvalidSettings(
            [
                f"{', '.join(lacking)}: where the application is, is not written down; add `url`"
                " to the [[node]] tables, or ask a running node by --from HOST:PORT"
            ]
        )
    return document_of(View(members=tuple(node.member("") for node in nodes)), settings)


def read(text: bytes) -> Document:
    """The document in what a node or a file told.

    Raises:
        ValueError: it is none, or of a later format.
    """
    try:
        found = msgspec.json.decode(text, type=Document)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a document for balancers: {error}") from error
    if found.format != FORMAT:
        raise ValueError(f"a document of format {found.format}; this release reads {FORMAT}")
    if not _is_plain(found):
        raise ValueError("a document with names or paths that are none")
    return found


def _is_plain(document: Document) -> bool:
    """Whether what becomes part of a balancer's configuration is nothing more than it says."""
    cookie, path = document.cookie, document.health.path
    return (
        is_name(document.cluster)
        and _COOKIE.fullmatch(cookie.name) is not None
        and cookie.expression == ROUTE_PATTERN
        and (not path or is_health_path(path))
        and all(is_server_name(name) for server in document.servers for name in server.names)
        and all(server.is_plain for server in document.servers if server.url)
    )


def keys_of(settings: Settings) -> Mapping[str, bytes]:
    """Key ID to the key that verifies route cookies, the one that signs first; empty without a
    cluster secret."""
    keys = settings.keys(ROUTE_LABEL)
    return RouteCookies(keys, settings.route_cookie).balancer_keys if keys else {}


def _name(server: Server) -> str:
    """In this order they stay when one goes and comes back: then nothing else changes."""
    return server.name


def _readyz(health_path: str) -> str:
    return f"{health_path.rstrip('/')}/readyz" if health_path else ""


def _servers(view: View) -> Iterator[Server]:
    table = Table(view)
    aliases: dict[str, list[str]] = {target.name: [] for target in table.targets}
    for name in table.names:
        targets, engine = table.lead(name)
        if targets and name not in aliases:
            first = next((each for each in targets if each.engine == engine), targets[0])
            aliases[first.name].append(name)
    for target in table.targets:
        member = view.member(target.node)
        assert member is not None, "the table is of this view"
        yield _server(target, tuple(aliases[target.name]), member.incarnation)


def _server(target: Target, aliases: tuple[str, ...], incarnation: str) -> Server:
    return Server(
        name=target.name,
        node=target.node,
        state="up" if target.state.takes_clients else "drain",
        url=target.url,
        aliases=aliases,
        engine=target.engine,
        types=tuple(sorted(target.types)),
        spare=target.spare,
        weight=target.weight,
        zone=target.zone,
        incarnation=incarnation,
    )


def _absent(nodes: list[Node], view: View, before: Document | None) -> Iterator[Server]:
    known = () if before is None else before.servers
    last = [server for server in known if server.url and view.member(server.node) is None]
    for server in last:
        yield msgspec.structs.replace(server, state=_state(server.node, view))
    told = {server.node for server in last}
    for node in nodes:
        if node.node not in told:
            yield Server(
                name=server_name(node.node),
                node=node.node,
                state=_state(node.node, view),
                url=node.url,
                spare=node.role == "spare",
                weight=max(1, node.weight),
                zone=node.zone,
            )


def _state(node: str, view: View) -> State:
    return "gone" if state_of(node, view) is NodeState.LEFT else "down"

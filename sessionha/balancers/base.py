"""What a kind of balancer is to the rest: files made of the document, and how it takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from sessionha.balancers.document import Document
from sessionha.balancers.kept import RESPONSE_TIMEOUT, Kept
from sessionha.errors import InvalidSettings

Keys = Mapping[str, bytes]
"""Key ID to the key that verifies route cookies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What an operator decides. Times are seconds."""

    place: Path
    """The directory in which the balancer reads the files."""
    verify: bool
    """Whether the balancer verifies the cookie's signature. That is defence in depth: a forger can
    only choose among the servers, and the server verifies always."""
    connect_timeout: float = 1.0
    """Until a server that does not accept is passed over."""
    response_timeout: float = RESPONSE_TIMEOUT
    """Without a byte from a server until it counts as dead for this request. Above the time a node
    may take to acquire a session (`acquire_timeout`, 3 s)."""
    retrusted: float = 1.0
    """After which a server that failed is tried again; a view without it comes as early."""
    loopback: str = ""
    """`host:port`, or the like of this kind, that the configuration needs for itself; empty: the
    kind's default."""
    socket: str = ""
    """The socket of its run-time API, where it has one."""

    @property
    def line(self) -> str:
        """A comment for the head of `Balancer.main`, from which `kept` reads them."""
        return Kept(self.verify, self.response_timeout, self.loopback).line


class File(NamedTuple):
    """The content of one file."""

    text: str | None
    """None: there shall be no such file."""
    private: bool = False
    """It has keys: for the owner only."""
    live: bool = False
    """A running balancer looks at it by itself: a change of it needs no reload."""


Files = Mapping[str, File]
"""By name, without directories."""


class Balancer(Protocol):
    """One kind. A new one is a class with these, and a line in `kinds.KINDS`."""

    place: Path
    """The usual directory."""
    main: str
    """The file that has `Options.line`."""
    verifies: bool
    """Whether it verifies the cookie's signature unless told otherwise."""
    asks: bool
    """Whether it asks servers how they are, where they have a path for it."""
    check: tuple[str, ...]
    """The usual command that judges the balancer's whole configuration; empty: it has none."""
    reload: tuple[str, ...]
    """The usual command that makes a running one read it again; empty: it watches the files."""

    def files(self, document: Document, keys: Keys, options: Options) -> Files:
        """The configuration.

        Raises:
            InvalidSettings: this kind cannot be configured for such a cluster.
        """

    async def adopt(self, document: Document, keys: Keys, options: Options) -> bool:
        """Bring a running balancer to the document without a reload, through its run-time API.
        False: it must be reloaded. The files are in place already."""


def verifying(keys: Keys, options: Options) -> Keys:
    """The keys that the balancer needs: none if it verifies nothing.

    Raises:
        InvalidSettings: it is to verify, and there is no cluster secret.
    """
    if not options.verify:
        return {}
    if not keys:
        raise InvalidSettings(
            [
                "`secret` is not set, and the keys of route cookies come from it: give the nodes'"
                " SESSIONHA_SECRET, or say --no-verify"
            ]
        )
    return keys


def only_connects(balancer: Balancer, health_path: str) -> str:
    """What a balancer does not learn without a path to ask at, and the remedy; empty: nothing."""
    if health_path or not balancer.asks:
        return ""
    return (
        "`health_path` is not set, so the balancer's own checks see only whether a server accepts"
        " connections: set SESSIONHA_HEALTH_PATH=/ on every node and for this command"
    )


def one_scheme(document: Document) -> str:
    """`http` or `https`: what all servers of the document speak.

    Raises:
        InvalidSettings: some one and some the other, or an address has a path, or is none.
    """
    for server in document.servers:
        if server.url and not server.is_plain:
            words = f"{server.node}: `url` {server.url!r} is not http://HOST[:PORT] or https://…"
            raise InvalidSettings([words])
    schemes = {server.scheme for server in document.servers if server.url}
    if len(schemes) > 1:
        raise InvalidSettings(["some nodes have https in their `url` and some http: make them one"])
    for server in document.servers:
        if server.url.partition("://")[2].partition("/")[2]:
            raise InvalidSettings([f"{server.node}: `url` {server.url} must be without a path"])
    return schemes.pop() if schemes else "http"

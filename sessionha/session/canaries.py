"""Canaries: requests of `sessionha doctor` that a node answers itself, with what it saw of them.

A canary is any request whose query begins with `sessionha-canary=` and a token that the cluster
secret signs. It goes through the public address, as a browser's would, and has a real session.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from sessionha.identity import encode64
from sessionha.session.affinity import Reason
from sessionha.session.cookies import cookie_values
from sessionha.session.session import Session
from sessionha.session.visit import Visit
from sessionha.topology.health import NodeState

QUERY: Final = "sessionha-canary="
"""What the query of a canary begins with. A query passes every layer that a header may not pass."""

VALID: Final = 86_400
"""Seconds for which a token is good, before and after: clocks that are wrong shall be found."""

REFUSED: Final = b"canary refused\n"
"""With 403: nothing more is told to whom cannot sign."""

REQUEST_CHARS: Final = 256
ELEMENT: Final = "sessionha canary"
COOKIES: Final = 32
"""Names of cookies that are told: browsers keep about 50 for a domain."""

Wish = Literal["look", "begin", "end"]
"""To be told what the node sees; with a session that begins; or with one that ends."""

SIGNATURES: Final = 4
"""A rotation of secrets has three at most."""

_TOKEN: Final = re.compile(
    r"((look|begin|end)\.([0-9]{1,12})\.[0-9a-f]{16})((?:\.[A-Za-z0-9_-]{43}){1,4})"
)


def canary(keys: Sequence[bytes], wish: Wish, now: float, nonce: str) -> str:
    """The query of a canary, signed with each key, at most `SIGNATURES` of them: a node that lacks
    one of the cluster's secrets shall answer too. `nonce`: 16 hexadecimal digits, so that no cache
    knows the answer."""
    text = f"{wish}.{int(now)}.{nonce}"
    return ".".join([f"{QUERY}{text}", *(_signature(key, text) for key in keys[:SIGNATURES])])


def wish_of(query: str, keys: Iterable[bytes], now: float) -> Wish | None:
    """What a canary's query asks for; None where none of the keys signed it, or long ago."""
    match = _TOKEN.fullmatch(query.removeprefix(QUERY)) if len(query) <= REQUEST_CHARS else None
    if match is None or abs(now - int(match[3])) > VALID:
        return None
    for key in keys:
        own = _signature(key, match[1])
        if any(hmac.compare_digest(own, given) for given in match[4].split(".")[1:]):
            return match[2]  # type: ignore[return-value]
    return None


def _signature(key: bytes, text: str) -> str:
    return encode64(hmac.digest(key, text.encode(), "sha256"))


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a node tells of itself and of the canary that it got."""

    node: str
    state: str
    """`NodeState`, in its own eyes."""
    now: float
    """Its wall clock, in seconds."""
    cluster: str
    """`cookies.cluster_tag`, as it stands in route cookies."""
    keys: tuple[str, ...]
    """IDs of its route keys, the signing one first; empty: it has no peers, and no route cookie."""
    route_cookie: str
    session_cookie: str
    session_path: str
    """The path attribute that it gives the session's cookie; empty: a framework gives one."""
    in_headers: bool
    """Whether clients carry sessions in headers, and not in cookies."""
    servers: Mapping[str, str]
    """Server names of the nodes of its view, each with the node's state in its eyes."""
    nodes: Mapping[str, str]
    """Node IDs by these names."""
    path: str
    """As it came here."""
    hops: int
    """Routers of sessionha that it passed."""
    cookies: tuple[str, ...]
    """Names of the cookies that came."""
    way: Reason | None
    servers_named: tuple[str, ...]
    """By its route cookie."""
    signed_by: str
    """Key ID of its route cookie, valid or not; empty: none came."""
    session: Literal["none", "refused", "gone", "kept", "unavailable"]


class Standing(NamedTuple):
    """What a node says of itself besides what its visits know."""

    node: str
    state: str
    servers: Mapping[str, tuple[str, NodeState]]
    """Node ID and state by server name."""


class Arrived(NamedTuple):
    """What a door knows of a request besides its visit."""

    cookie_headers: Sequence[str]
    path: str
    hops: str = ""
    """The header of this name."""
    session_path: str = ""
    """The path attribute that the door gives the session's cookie; empty: a framework does."""


def report(visit: Visit, arrived: Arrived, standing: Standing, now: float) -> Report:
    """What to answer. The visit has arrived, and its session may be unavailable."""
    home, terms = visit.home, visit.terms
    signs = home.route_cookies
    route_name = terms.route_attributes.name
    routes = cookie_values(arrived.cookie_headers, route_name)
    fields = routes[0].split(".") if routes else []
    came = cookie_values(arrived.cookie_headers, terms.cookies.name)
    return Report(
        node=standing.node,
        state=standing.state,
        now=now,
        cluster=home.cluster,
        keys=() if signs is None else tuple(signs.balancer_keys),
        route_cookie=route_name,
        session_cookie=terms.cookies.name,
        session_path=arrived.session_path,
        in_headers=terms.in_headers,
        servers={name: state for name, (_, state) in standing.servers.items()},
        nodes={name: node for name, (node, _) in standing.servers.items()},
        path=arrived.path,
        hops=int(arrived.hops) if arrived.hops.isdigit() else 0,
        cookies=tuple(_names(arrived.cookie_headers))[:COOKIES],
        way=visit.way,
        servers_named=() if visit.route is None else visit.route.servers,
        signed_by=fields[3] if len(fields) == 5 else "",
        session=_session(visit, came),
    )


def _session(
    visit: Visit, came: Sequence[str]
) -> Literal["none", "refused", "gone", "kept", "unavailable"]:
    if visit.session.failure is not None:
        return "unavailable"
    if visit.ticket is None:
        return "refused" if came else "none"
    return "gone" if visit.session.known is None else "kept"


def _names(headers: Sequence[str]) -> Iterable[str]:
    pairs = (pair.partition("=") for header in headers for pair in header.split(";"))
    return dict.fromkeys(name.strip() for name, equals, _ in pairs if equals)


def allowed(session: Session, wish: Wish) -> Wish:
    """What a canary may do of what it wishes: it begins a session where there is none, and ends one
    that a canary began and nobody else has used. The session of a browser that somebody leads here
    stays as it is, also where the first request of that browser was a canary's."""
    if session.failure is not None:
        return "look"
    if wish == "begin":
        return wish if session.new else "look"
    if wish == "look" or session.subject is not None or list(session) != [ELEMENT]:
        return "look"
    return wish


def grant(session: Session, wish: Wish) -> None:
    """Begin or end the canary's session, if it may."""
    wish = allowed(session, wish)
    if wish == "begin":
        session[ELEMENT] = True
    elif wish == "end":
        session.destroy()

"""Sends canaries through the public address, as a browser would, and keeps what came of them."""

from __future__ import annotations

import http.client
import secrets
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from sessionha.identity import Epoch, Position
from sessionha.keys import CANARY_LABEL, ROUTE_LABEL
from sessionha.session.canaries import REFUSED, Report, Wish, canary
from sessionha.session.cookies import Route, RouteCookies
from sessionha.settings import Settings

TIMEOUT: Final = 10.0
"""Seconds for one answer; a node that has lost its cluster takes three to say so."""

BODY: Final = 1 << 18
"""Bytes of an answer that are read: a server takes about 60 in it, and a cluster has some."""

NEWCOMERS: Final = 8
"""Clients without a cookie, at least: with three servers in turn each gets two."""

MOST: Final = 48
"""Clients without a cookie, at most."""

RETURNING: Final = 6
"""Clients that come back with what they were told."""

TIMES: Final = 3
"""Requests of each client, and to each server that is named: one in nine would be luck."""

SERVERS: Final = 16
"""Servers that are named, at most."""

UNAVAILABLE: Final = 503
REPEATS: Final = 2
"""Of a canary that is answered with 503: while a node joins or fails, some are."""

PAUSE: Final = 1.0
"""Seconds between them, as nodes say with Retry-After."""

FIRST: Final = 6
"""Tries until something must have answered as a node does."""

_decode = msgspec.json.Decoder(Report).decode


class Told(NamedTuple):
    """A cookie that an answer set."""

    name: str
    value: str
    """Empty: it is taken back."""
    path: str
    domain: str
    secure: bool


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One canary: what was sent, and what came back."""

    kind: str
    """`new`: without cookies; `back`: with what its client was told; `named`: with a route that
    names a server; `stuck`: the same beside a cookie of somebody else's."""
    sent: tuple[str, ...] = ()
    """Names of the cookies that went along."""
    named: str = ""
    """Node that its route names first, by what it was told before; empty: none."""
    key: str = ""
    """Key ID of that route."""
    stuck_to: str = ""
    """Node that served the client that the other cookie was told to."""
    status: int = 0
    """0: there was no answer."""
    error: str = ""
    refused: bool = False
    """A node answered that does not know the secret which signed it."""
    location: str = ""
    by: str = ""
    """What the answer's headers say of the layers on its way."""
    told: tuple[Told, ...] = ()
    report: Report | None = None
    asked: float = 0.0
    """When it was sent and answered, by this machine's clock: seconds."""
    answered: float = 0.0


@dataclass
class Client:
    """A browser's part: keeps cookies with their attributes, and sends them where they belong."""

    cookies: dict[str, Told] = field(default_factory=dict)
    node: str = ""
    """Who served it last."""

    def keep(self, told: Sequence[Told]) -> None:
        """Keep what an answer set; an empty value takes a cookie back."""
        for each in told:
            self.cookies.pop(each.name, None)
            if each.value:
                self.cookies[each.name] = each

    def sends(self, path: str, host: str, *, secure: bool) -> dict[str, str]:
        """What it sends to this path of a host (RFC 6265, 5.4)."""
        return {
            each.name: each.value
            for each in self.cookies.values()
            if covers(each.path, path)
            and (secure or not each.secure)
            and (not each.domain or host == each.domain or host.endswith(f".{each.domain}"))
        }


def covers(prefix: str, path: str) -> bool:
    """Whether a cookie with the path attribute `prefix` is sent to `path` (RFC 6265, 5.1.4)."""
    if not path.startswith(prefix):
        return False
    return prefix.endswith("/") or path[len(prefix) :][:1] in ("", "/")


class Canaries:
    """Examines one public address. `send` is `ask`, unless a test has its own."""

    def __init__(
        self,
        url: str,
        settings: Settings,
        *,
        send: Callable[[str, Mapping[str, str]], Seen] | None = None,
        clock: Callable[[], float] = time.time,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = urlsplit(url)
        self.path = parts.path or "/"
        self._host = parts.hostname or ""
        self._secure = parts.scheme == "https"
        self._base = f"{parts.scheme}://{parts.netloc}{self.path}"
        self._keys = settings.keys(CANARY_LABEL)
        self._routes = settings.keys(ROUTE_LABEL)
        self._ask = send or ask
        self._clock = clock
        self._pause = pause
        self.seen: list[Seen] = []

    def run(self) -> Sequence[Seen]:
        """Send all of them; their sessions have ended afterwards."""
        clients = list(self._newcomers())
        report = next((seen.report for seen in self.seen if seen.report is not None), None)
        if report is None:
            return self.seen
        for client in clients[:RETURNING]:
            for _ in range(TIMES):
                self._back(client)
        if len(report.servers) > 1 and report.keys and not report.in_headers:
            self._name_servers(report, clients)
        for client in clients:
            self._send("end", Client(dict(client.cookies)), Seen(kind="end"))
        return self.seen

    def _newcomers(self) -> Iterator[Client]:
        wanted = NEWCOMERS
        for number in range(MOST):
            if number >= wanted:
                return
            client = Client()
            seen = self._send("begin", client, Seen(kind="new"))
            self.seen.append(seen)
            if seen.report is not None:
                wanted = min(MOST, max(NEWCOMERS, 3 * len(seen.report.servers)))
                yield client
            elif number + 1 >= FIRST and all(each.report is None for each in self.seen):
                return

    def _back(self, client: Client) -> None:
        before = client.node
        self.seen.append(self._send("look", client, Seen(kind="back", named=before)))

    def _name_servers(self, report: Report, clients: Sequence[Client]) -> None:
        ready = [name for name, state in report.servers.items() if state == "ready"][:SERVERS]
        for cookies in self._signers(report):
            for name in ready:
                others = [each for each in ready if each != name]
                route = _route(report, (name, *others))
                told = Told(report.route_cookie, cookies.write(route), "/", "", False)
                about = Seen(
                    kind="named", named=report.nodes[name], key=next(iter(cookies.balancer_keys))
                )
                for _ in range(TIMES):
                    self.seen.append(self._send("look", Client({told.name: told}), about))
                self._stick(report, clients, told, report.nodes[name])
            if all(
                seen.report is not None and seen.report.node == seen.named
                for seen in self.seen
                if seen.kind == "named"
            ):
                return  # no need to try other keys

    def _signers(self, report: Report) -> Iterator[RouteCookies]:
        """Those of the key that nodes sign with first, then of every other key that is known."""
        own = [RouteCookies([key], report.route_cookie) for key in self._routes]
        yield from sorted(own, key=lambda each: next(iter(each.balancer_keys)) != report.keys[0])

    def _stick(self, report: Report, clients: Sequence[Client], route: Told, named: str) -> None:
        """The same with what somebody else told a client whom another server had."""
        ours = (report.route_cookie, report.session_cookie)
        for client in clients:
            others = {each.name: each for each in client.cookies.values() if each.name not in ours}
            if others and client.node != named:
                about = Seen(kind="stuck", named=named, stuck_to=client.node)
                both = Client({**others, route.name: route})
                self.seen.append(self._send("look", both, about))
                return

    def _send(self, wish: Wish, client: Client, about: Seen) -> Seen:
        got = self._once(wish, client)
        for _ in range(REPEATS):
            if got.status != UNAVAILABLE:
                break
            self._pause(PAUSE)
            got = self._once(wish, client)
        client.keep(got.told)
        if got.report is not None:
            client.node = got.report.node
        return replace(
            got, kind=about.kind, named=about.named, key=about.key, stuck_to=about.stuck_to
        )

    def _once(self, wish: Wish, client: Client) -> Seen:
        query = canary(self._keys, wish, self._clock(), secrets.token_hex(8))
        sent = client.sends(self.path, self._host, secure=self._secure)
        asked = self._clock()
        got = self._ask(f"{self._base}?{query}", sent)
        return replace(got, sent=tuple(sent), asked=asked, answered=self._clock())


def _route(report: Report, servers: tuple[str, ...]) -> Route:
    """A route to no session: of a group that nobody has."""
    position = Position(Epoch(1, 1, report.node), 1)
    return Route(servers, secrets.token_bytes(12), position, report.cluster)


def ask(url: str, cookies: Mapping[str, str]) -> Seen:
    """Send one request over a connection of its own; what came back."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT)
    headers = {"User-Agent": "sessionha-doctor", "Accept": "*/*"}
    if cookies:
        headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
    try:
        connection.request("GET", f"{parts.path}?{parts.query}", headers=headers)
        answer = connection.getresponse()
        body = answer.read(BODY)
    except ssl.SSLError as error:
        return Seen(kind="", error=f"TLS: {error.reason or error}")
    except (OSError, http.client.HTTPException) as error:
        return Seen(kind="", error=getattr(error, "strerror", None) or str(error) or repr(error))
    finally:
        connection.close()
    named = (answer.getheader(name) for name in ("Server", "Via"))
    return Seen(
        kind="",
        status=answer.status,
        refused=answer.status == 403 and body == REFUSED,
        location=answer.getheader("Location") or "",
        by=", ".join(filter(None, named)),
        told=tuple(
            _told(header, parts.path) for header in answer.headers.get_all("Set-Cookie", ())
        ),
        report=_report(body) if answer.status == 200 else None,
    )


def _report(body: bytes) -> Report | None:
    try:
        return _decode(body)
    except msgspec.DecodeError:
        return None


def _told(header: str, asked: str) -> Told:
    """A `Set-Cookie` header as browsers read it (RFC 6265, 5.2)."""
    pair, *rest = header.split(";")
    name, _, value = (part.strip() for part in pair.partition("="))
    said = {key.strip().lower(): text.strip() for key, _, text in (a.partition("=") for a in rest)}
    path = said.get("path", "")
    if not path.startswith("/"):
        path = asked.rpartition("/")[0] or "/"
    ends = said.get("max-age", "1").startswith(("0", "-")) or "1970" in said.get("expires", "")
    domain = said.get("domain", "").lstrip(".").lower()
    return Told(name, "" if ends else value, path, domain, "secure" in said)

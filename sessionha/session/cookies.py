"""The two cookies: who the client is (session) and where its sessions are (route); pure text.

Text from outside is never an error: what does not verify is absent (contract, G13 and R16).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeVar

import msgspec

from sessionha.errors import InvalidSettings
from sessionha.identity import (
    GROUP_BYTES,
    SESSION_ID_CHARS,
    GroupID,
    Position,
    SessionIDs,
    decode64,
    encode64,
    is_name,
    position_of,
)

SameSite = Literal["lax", "strict", "none"]
Found = TypeVar("Found")
Asked = TypeVar("Asked")

ROUTE_COOKIE: Final = "hsr"
"""Without `-`, because nginx's `$cookie_NAME` cannot express one."""

_NAMES_PATTERN: Final = r"[a-z0-9-]{1,16}(?:~[a-z0-9-]{1,16}){0,7}"
ROUTE_PATTERN: Final = (
    rf"^1\.({_NAMES_PATTERN})"
    r"\.([A-Za-z0-9_-]*)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]{43})$"
)
"""What balancers match: server names, opaque part, key ID, signature."""

ROUTE_CHARS: Final = 1024
ROUTE_SERVERS: Final = 8
SKEW_SECONDS: Final = 2
"""ε of the contract: how far the clocks of two nodes may be apart."""

REMEMBERED: Final = 4096
"""Verified cookies kept (about 1 MB) so that a client's next request costs no HMAC; forged ones
are never kept. All are dropped at once when it is full."""

CANDIDATES: Final = 4
"""Cookies of one name that are looked at; browsers send one for each path and domain."""

KEY_BYTES: Final = 32
_ROUTE = re.compile(ROUTE_PATTERN[1:-1].replace("{43}", "{42}[AEIMQUYcgkosw048]"))
_NAMES = re.compile(_NAMES_PATTERN)
_SESSION = re.compile(
    rf"([A-Za-z0-9_-]{{{SESSION_ID_CHARS}}})\.([0-9]{{1,12}})"
    r"\.([A-Za-z0-9_-]{42}[AEIMQUYcgkosw048])"
)
"""The signature's last character carries four bits: of the four spellings one is ours."""
SECONDARIES: Final = 8
"""Named sessions of one client in one request: together a cookie header of about 1 KB."""

NAME_CHARS: Final = 32
_NAME: Final = rf"[A-Za-z0-9_-]{{1,{NAME_CHARS}}}"
_SESSION_NAME = re.compile(_NAME)
COOKIE_NAME_CHARS: Final = 128
_COOKIE_NAME = re.compile(rf"[!#$%&'*+.^_`|~0-9A-Za-z-]{{1,{COOKIE_NAME_CHARS}}}")
_ATTRIBUTE = re.compile(r"[\x21-\x3a\x3c-\x7e]*")
_NEVER: Final = 1 << 62
"""A deadline in no cookie's time."""

_BLOCK: Final = hashlib.sha256().block_size
_EPOCH_DATE: Final = "Thu, 01 Jan 1970 00:00:00 GMT"
_PLACEHOLDER = re.compile(
    r"(?i)(change[-_ ]?(me|this|it)|django-insecure-|insecure|example|secret[-_ ]?key"
    r"|your[-_ ]|placeholder|replace|password|xxxx|todo)"
)


# --- the route cookie ----------------------------------------------------------------------------


class Route(NamedTuple):
    """What a route cookie says: a hint where to go and a floor for freshness, never authority."""

    servers: tuple[str, ...]
    """Server names (`identity.server_name`), the primary first, then its backups in order."""
    group: GroupID
    position: Position
    cluster: str
    """`cluster_tag` of the cluster that wrote it; compare before use."""


class _Opaque(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    group: bytes
    view: int
    attempt: int
    node: str
    version: int
    cluster: str


_encoder: Final = msgspec.msgpack.Encoder()


class RouteCookies:
    """Writes and verifies route cookies: `1.<name~name>.<opaque>.<key ID>.<signature>`.

    Keys are derived from the cluster secrets; the first signs, each verifies what bears its ID.
    The signature is what itsdangerous' `Signer` writes on everything before the last dot.
    """

    def __init__(self, keys: Sequence[bytes], name: str = ROUTE_COOKIE) -> None:
        if not keys:
            raise ValueError("route cookies need at least one key")
        self.name = name
        self.balancer_keys: Mapping[str, bytes] = {
            key_id(key): balancer_key(key, name) for key in keys
        }
        """Key ID to the key that a balancer needs to verify, the signing one first."""
        self._signers = {kid: _Signer(key) for kid, key in self.balancer_keys.items()}
        self._kid = next(iter(self._signers))
        self._names: dict[tuple[str, ...], str] = {}
        self._opaque = msgspec.msgpack.Decoder(_Opaque)
        self._verified: dict[str, Route] = {}

    def write(self, route: Route) -> str:
        """The cookie's value, at most 1,024 characters of `[A-Za-z0-9._~-]`.

        More than eight servers are cut. A server name that is none is a mistake of ours.
        """
        epoch, version = route.position
        opaque = _encoder.encode(
            _Opaque(route.group, epoch.view, epoch.attempt, epoch.node, version, route.cluster)
        )
        names = self._names.get(route.servers) or self._join(route.servers)
        text = f"1.{names}.{encode64(opaque)}.{self._kid}"
        value = self._signers[self._kid].sign(text)
        assert len(value) <= ROUTE_CHARS, "not a route"
        if len(route.servers) <= ROUTE_SERVERS:
            remember(self._verified, value, route)  # it comes back with the next request
        return value

    def _join(self, servers: tuple[str, ...]) -> str:
        names = "~".join(servers[:ROUTE_SERVERS])
        assert _NAMES.fullmatch(names), "not server names"
        remember(self._names, servers, names)
        return names

    def read(self, text: str) -> Route | None:
        """What the cookie says, or None when this is not one that a known key signed."""
        known = self._verified.get(text)
        if known is None and (known := self._verify(text)) is not None:
            remember(self._verified, text, known)
        return known

    def knows_key(self, text: str) -> bool:
        """Whether this does not look like a cookie that was signed with a key of others."""
        match = _ROUTE.fullmatch(text) if len(text) <= ROUTE_CHARS else None
        return match is None or match[3] in self._signers

    def _verify(self, text: str) -> Route | None:
        if len(text) > ROUTE_CHARS:
            return None
        match = _ROUTE.fullmatch(text)
        if match is None:
            return None
        signer = self._signers.get(match[3])
        if signer is None or not signer.signed(text[:-44], match[4]):
            return None
        try:
            opaque = self._opaque.decode(decode64(match[2]))
        except (ValueError, msgspec.DecodeError):
            return None
        if len(opaque.group) != GROUP_BYTES:
            return None
        position = position_of(opaque.view, opaque.attempt, opaque.version, opaque.node)
        if position is None:
            return None
        return Route(tuple(match[1].split("~")), opaque.group, position, opaque.cluster)


def balancer_key(secret: bytes, name: str = ROUTE_COOKIE) -> bytes:
    """The 32 bytes a balancer verifies route cookies of this name with: HMAC-SHA256(key, salt)."""
    return hmac.digest(secret, f"sessionha route cookie {name}".encode(), "sha256")


def key_id(key: bytes) -> str:
    """The public name of a route key: six URL-safe characters that tell nothing of it."""
    return encode64(hmac.digest(key, b"sessionha key id", "sha256"))[:6]


def cluster_tag(cluster: str, incarnation: str = "") -> str:
    """The short mark of a cluster and of its random incarnation, as route cookies carry it."""
    life = hashlib.sha256(f"{cluster}\0{incarnation}".encode()).digest()[:6]
    return encode64(hashlib.sha256(cluster.encode()).digest()[:3]) + encode64(life)


def same_cluster(tag: str, other: str) -> bool:
    """Whether two tags are of one cluster, perhaps of different incarnations."""
    return tag[:4] == other[:4]


def remember(known: dict[Asked, Found], asked: Asked, found: Found, most: int = REMEMBERED) -> None:
    """Keep what was found; all that is known is dropped when it is `most`."""
    if len(known) >= most:
        known.clear()
    known[asked] = found


class _Signer:
    """Signs `<text>.<signature>` as itsdangerous' `Signer` with HMAC-SHA256 (RFC 2104) does, with a
    key that is hashed once, and not for every signature."""

    def __init__(self, key: bytes) -> None:
        assert len(key) == KEY_BYTES, "a derived key"
        padded = key.ljust(_BLOCK, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    def sign(self, text: str) -> str:
        """The text with its signature."""
        return f"{text}.{self._signature(text)}"

    def signed(self, text: str, signature: str) -> bool:
        """Whether this is the text's signature; takes the same time wherever they differ."""
        return hmac.compare_digest(self._signature(text), signature)

    def _signature(self, text: str) -> str:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(text.encode())
        outer.update(inner.digest())
        return encode64(outer.digest())


# --- the session cookie --------------------------------------------------------------------------


class Ticket(NamedTuple):
    """What a valid session cookie says."""

    session_id: str
    group: GroupID
    deadline: int
    """When the session is idle for too long: seconds of the wall clock; 0: it never was valid."""

    def is_over(self, now: float) -> bool:
        """Whether the deadline, and ε, has passed."""
        return now > self.deadline + SKEW_SECONDS

    def __repr__(self) -> str:
        return f"<Ticket: until {self.deadline}>"  # never an ID


class SessionCookies:
    """Writes and verifies session cookies: `<session ID>.<idle deadline>.<signature>`.

    Keys are the application's; the first signs, every one verifies. The cookie's name is bound
    into the signature, so that a value cannot be moved to another cookie.
    """

    def __init__(
        self,
        keys: Sequence[bytes],
        name: str = "session",
        use: Literal["cookie", "header"] = "cookie",
    ) -> None:
        """`use`: bound into the signature too, so that what is told in a header is no cookie."""
        if not keys:
            raise ValueError("session cookies need at least one key")
        self.name = name
        self.use = use
        self.ids = SessionIDs(tuple(keys))
        self._keys = tuple(keys)
        self._named = re.compile(rf"(?:^|;)[ \t]*{re.escape(name)}-({_NAME})=([^;]*)")
        salt = f"sessionha session {use} {name}".encode()
        self._signers = tuple(_Signer(hmac.digest(key, salt, "sha256")) for key in keys)
        self._verified: dict[str, Ticket] = {}

    def write(self, session_id: str, deadline: int) -> str:
        """The cookie's value for a session that is idle for too long at `deadline` (seconds)."""
        return self._signers[0].sign(f"{session_id}.{max(0, deadline)}")

    def read(self, text: str, now: float) -> Ticket | None:
        """The ticket; None when it is not ours or its deadline (and ε) has passed."""
        ticket = self._verified.get(text)
        if ticket is None:
            ticket = self._verify(text)
            if ticket is None:
                return None
            remember(self._verified, text, ticket)
        return None if ticket.is_over(now) else ticket

    def secondary(self, name: str) -> SessionCookies:
        """The cookies of secondary sessions of this name: `<this name>-<name>`."""
        return SessionCookies(self._keys, f"{self.name}-{name}", self.use)

    def of_use(self, use: Literal["cookie", "header"]) -> SessionCookies:
        """The same for another use: neither verifies what the other writes."""
        return SessionCookies(self._keys, self.name, use)

    def secondary_values(self, headers: Iterable[str]) -> dict[str, list[str]]:
        """What may be cookies of secondary sessions, by the sessions' names: as many as count.

        Others' cookies may have such names too; what is not written like ours is not looked at.
        """
        found: dict[str, list[str]] = {}
        for header in headers:
            if f"{self.name}-" not in header:
                continue
            for name, text in self._named.findall(header):
                value = text.strip(" \t")
                if len(self.name) + len(name) >= COOKIE_NAME_CHARS:
                    continue
                if _SESSION.fullmatch(value) and (name in found or len(found) < SECONDARIES):
                    found.setdefault(name, []).append(value)
        return found

    def _verify(self, text: str) -> Ticket | None:
        match = _SESSION.fullmatch(text)
        if match is None:
            return None
        if not any(signer.signed(text[:-44], match[3]) for signer in self._signers):
            return None
        group = self.ids.group(match[1])
        return None if group is None else Ticket(match[1], group, int(match[2]))


class BareCookies(SessionCookies):
    """Session cookies that a framework writes: nothing but the session ID, which verifies itself.

    They say no deadline: who brings an ID that has expired is looked for. The cookie's name is
    bound into the ID's tag: no part of another cookie is such an ID.
    """

    def __init__(self, keys: Sequence[bytes], name: str = "session") -> None:
        super().__init__(keys, name)
        self.ids = SessionIDs(self._keys, f"of cookie {name}")

    def write(self, session_id: str, deadline: int) -> str:
        """The session ID."""
        del deadline
        return session_id

    def _verify(self, text: str) -> Ticket | None:
        group = self.ids.group(text)
        return None if group is None else Ticket(text, group, _NEVER)


def application_keys(secret_key: object) -> tuple[bytes, ...]:
    """The keys of a framework's `secret_key`: one or a list of str, bytes or str-like objects.

    Raises:
        InvalidSettings: it is None, a number or the like: its text would be no secret at all.
    """
    if secret_key is None or isinstance(secret_key, int | float | dict | set):
        raise InvalidSettings(
            [
                f"`secret_key` is {type(secret_key).__name__}, not text or bytes: is the"
                " environment variable set that it comes from? `sessionha secret` prints a good"
                " key"
            ]
        )
    if isinstance(secret_key, bytes):
        return (secret_key,)
    if isinstance(secret_key, list | tuple):
        return tuple(key for item in secret_key for key in application_keys(item))
    return (str(secret_key).encode(),)


def check_key(key: bytes) -> str | None:
    """What is wrong with a key that signs cookies, or None; the key itself is never quoted."""
    if len(key) < KEY_BYTES:
        return (
            f"the application's secret key has {len(key)} bytes, fewer than {KEY_BYTES} random"
            " ones: `sessionha secret` prints a good one"
        )
    if len(set(key)) < 8 or _PLACEHOLDER.match(key.decode("latin-1")):
        return "the application's secret key is a placeholder: `sessionha secret` prints a good one"
    return None


# --- headers -------------------------------------------------------------------------------------


def cookie_values(headers: Iterable[str], name: str) -> list[str]:
    """Every value of the cookie `name` in the `Cookie` headers, in order; no quotes are undone."""
    values: list[str] = []
    for header in headers:
        often = header.count(name)
        if often == 1 and (value := _only_value(header, name)) is not None:
            values.append(value)
        elif often:
            values += _every_value(header, name)
    return values


def _only_value(header: str, name: str) -> str | None:
    """The value where the name stands once and as browsers write it; None: look again."""
    start = header.index(name)
    if start and header[start - 2 : start] != "; ":
        return None
    start += len(name)
    if header[start : start + 1] != "=":
        return None
    end = header.find(";", start)
    return (header[start + 1 :] if end < 0 else header[start + 1 : end]).strip(" \t")


def _every_value(header: str, name: str) -> list[str]:
    values = []
    for pair in header.split(";"):
        key, equals, value = pair.partition("=")
        if equals and key.strip(" \t") == name:
            values.append(value.strip(" \t"))
    return values


def only_valid(values: Sequence[str], read: Callable[[str], Found | None]) -> Found | None:
    """What the only valid one among several cookies of one name says; None for none or several."""
    if len(values) == 1:
        return read(values[0])
    distinct = list(dict.fromkeys(values))
    if len(distinct) > CANDIDATES:
        return None
    found = [result for value in distinct if (result := read(value)) is not None]
    return found[0] if len(found) == 1 else None


@dataclass(frozen=True, slots=True)
class CookieAttributes:
    """The attributes of a cookie, checked when they are made.

    Raises:
        InvalidSettings: a name, prefix or attribute that browsers would refuse.
    """

    name: str
    path: str = "/"
    same_site: SameSite | None = "lax"
    secure: bool = False
    domain: str | None = None
    partitioned: bool = False
    http_only: bool = True
    _flags: tuple[str, str] = field(init=False, repr=False, compare=False)
    """What ends each header: of requests by http, and by https."""

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise InvalidSettings(problems)
        flags = self._flags_for(secure=self.secure), self._flags_for(secure=True)
        object.__setattr__(self, "_flags", flags)

    def _problems(self) -> Iterable[str]:
        if _COOKIE_NAME.fullmatch(self.name) is None:
            yield f"{self.name!r} cannot be a cookie's name: use letters, digits, `_` and `-`"
        for setting, text in (("path", self.path), ("domain", self.domain or "")):
            if _ATTRIBUTE.fullmatch(text) is None:
                yield f"`{setting}` {text!r} cannot stand in a cookie: printable ASCII without `;`"
        if self.same_site not in ("lax", "strict", "none", None):
            yield f"`same_site` {self.same_site!r} is not one of lax, strict, none"
        name = self.name.lower()
        if name.startswith(("__host-", "__secure-")) and not self.secure:
            yield f"the cookie name {self.name} asks for https only: set `https_only`"
        if name.startswith("__host-") and (self.path != "/" or self.domain):
            yield f"the cookie name {self.name} asks for `path` / and no `domain`"

    def set(self, value: str, max_age: int | None, *, secure: bool = False) -> str:
        """The `Set-Cookie` header; `max_age` in seconds, None ends with the browser.

        `secure`: the request came by https, so the cookie is `Secure` whatever the setting says.
        """
        age = "" if max_age is None else f"Max-Age={max_age}; "
        return f"{self.name}={value}; path={self.path}; {age}{self._flags[secure]}"

    def delete(self, *, secure: bool = False) -> str:
        """The `Set-Cookie` header that makes a browser forget the cookie."""
        return f"{self.name}=null; path={self.path}; expires={_EPOCH_DATE}; {self._flags[secure]}"

    def _flags_for(self, *, secure: bool) -> str:
        flags = ["httponly"] if self.http_only else []
        if self.same_site is not None:
            flags.append(f"samesite={self.same_site}")
        if secure:
            flags.append("secure")
        if self.domain is not None:
            flags.append(f"domain={self.domain}")
        if self.partitioned:
            flags.append("partitioned")
        return "; ".join(flags)


def is_session_name(text: str) -> bool:
    """Whether `text` can name a secondary session: letters, digits, `-` and `_`, at most 32."""
    return _SESSION_NAME.fullmatch(text) is not None


def is_cookie_name(text: str) -> bool:
    """Whether `text` can name the route cookie in every balancer: letters, digits, `_`."""
    return is_name(text) and re.fullmatch(r"[A-Za-z0-9_]{1,64}", text) is not None

"""Names of everything in a cluster: nodes, engines, groups, sessions, epochs, positions, views.

Nothing here does I/O or reads a clock; randomness comes from `secrets` only where an ID is made.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from base64 import b32encode, urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import NamedTuple

DOMAINS = 256
"""D: how many hash partitions of the groups there are; healing locks one at a time."""

GROUP_BYTES = 12
SECRET_BYTES = 18  # 144 random bits; the contract asks for at least 128
TAG_BYTES = 12  # 96 bits; the contract asks for at least 80
_GROUP_CHARS = 16
_SECRET_CHARS = 24
_TAG_CHARS = 16
SESSION_ID_CHARS = _GROUP_CHARS + _SECRET_CHARS + _TAG_CHARS

GroupID = bytes
"""Twelve random bytes, made with a client's first session."""

SessionKey = bytes
"""Sixteen bytes: what a session is stored and replicated under (never its ID)."""

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_SERVER_NAME = re.compile(r"[a-z0-9-]{1,16}")
_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{56}")


class Epoch(NamedTuple):
    """The term of one primary of a group, totally ordered (view number, attempt, node ID).

    The attempt stands before the node, so that any node can exceed an epoch it has seen by taking
    a higher attempt; the node ID only separates two claimants of the same attempt.
    """

    view: int
    attempt: int
    node: str


class Position(NamedTuple):
    """How new a copy is: the epoch it was accepted under and the changes it has seen."""

    epoch: Epoch
    version: int


class ViewID(NamedTuple):
    """A view's number and, in available mode, the ID of its lowest member (else empty)."""

    number: int
    lowest: str


BEYOND = 2**53
"""No number of a position reaches it: at a million a second that takes 285 years. Every decoder
and encoder has it exactly, and what is added to it still fits where numbers are stored."""


def position_of(view: int, attempt: int, version: int, node: str) -> Position | None:
    """The position that a client presents; None: no node ever told it."""
    if not is_name(node) or not all(0 <= number < BEYOND for number in (view, attempt, version)):
        return None
    return Position(Epoch(view, attempt, node), version)


NO_EPOCH = Epoch(0, 0, "")
NO_POSITION = Position(NO_EPOCH, 0)
NO_VIEW = ViewID(0, "")


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """`cluster/node/engine type/engine/virtual server`; an absent part means any."""

    cluster: str = ""
    node: str = ""
    engine_type: str = ""
    engine: str = ""
    virtual_server: str = ""

    @classmethod
    def parse(cls, text: str) -> Address | None:
        """The address that `str` wrote, or None: text from outside is never an error."""
        parts = text.split("/")
        if len(parts) > 5 or len(text) > 320:
            return None
        if any(part not in ("", "*") and not is_name(part) for part in parts):
            return None
        return cls(*("" if part == "*" else part for part in parts))

    def matches(self, other: Address) -> bool:
        """Whether `other` is one of the entities that this address means."""
        mine = (self.cluster, self.node, self.engine_type, self.engine, self.virtual_server)
        theirs = (other.cluster, other.node, other.engine_type, other.engine, other.virtual_server)
        return all(not part or part == theirs[index] for index, part in enumerate(mine))

    def __str__(self) -> str:
        parts = (self.cluster, self.node, self.engine_type, self.engine, self.virtual_server)
        return "/".join(part or "*" for part in parts)


def is_name(text: str) -> bool:
    """Whether `text` can name a cluster, node, engine type or virtual server."""
    return _NAME.fullmatch(text) is not None


def is_server_name(text: str) -> bool:
    """Whether `server_name` could have made this."""
    return _SERVER_NAME.fullmatch(text) is not None


def is_below(path: str, prefix: str) -> bool:
    """Whether a URL's path is `prefix` or below it: `/a/b` is below `/a`, and `/ab` is not."""
    if not path.startswith(prefix):
        return False
    return prefix.endswith("/") or path[len(prefix) :][:1] in ("", "/")


def server_name(node: str, engine: str = "") -> str:
    """The short name of a node (or of one engine of it) that route cookies carry.

    At most 16 characters of `[a-z0-9-]`. Longer or other names keep seven of their allowed
    characters and gain eight of their SHA-256, so the name is looked up whole and never split.
    """
    name = f"{node}--e{engine}" if engine else node
    if _SERVER_NAME.fullmatch(name):
        return name
    stem = re.sub(r"[^a-z0-9-]", "", name.lower())[:7]
    digest = b32encode(hashlib.sha256(name.encode()).digest()).decode().lower()[:8]
    return f"{stem}-{digest}"


def new_group() -> GroupID:
    """A group ID that nobody chose."""
    return secrets.token_bytes(GROUP_BYTES)


def new_incarnation() -> str:
    """The identity of a fresh store: 16 hexadecimal characters."""
    return secrets.token_hex(8)


def domain_of(group: GroupID) -> int:
    """The hash partition of a group, 0 to DOMAINS - 1.

    Group IDs are random bytes that no client chooses, so the first one is as good as a hash, and
    the keys of a domain are one contiguous range.
    """
    return group[0]


class SessionIDs:
    """Makes and verifies the session IDs of one application key.

    An ID is 56 URL-safe characters: the group (96 bits), a secret (144 random bits) and a tag
    (96 bits of an HMAC-SHA256 of the rest). Keys rotate: the first makes, every one verifies.

    `use`: bound into the tag, so that an ID that is all there is in a cookie opens no other cookie.
    """

    def __init__(self, keys: tuple[bytes, ...], use: str = "") -> None:
        salt = f"sessionha session id {use}".rstrip().encode()
        self._keys = tuple(hmac.digest(key, salt, "sha256") for key in keys)

    def new(self, group: GroupID) -> str:
        """A session ID in `group` that nobody chose."""
        body = encode64(group) + encode64(secrets.token_bytes(SECRET_BYTES))
        return body + self._tag(self._keys[0], body)

    def group(self, session_id: str) -> GroupID | None:
        """The group of a session ID that one of the keys made; None for anything else."""
        if _SESSION_ID.fullmatch(session_id) is None:
            return None
        body, tag = session_id[:-_TAG_CHARS], session_id[-_TAG_CHARS:]
        if not any(hmac.compare_digest(self._tag(key, body), tag) for key in self._keys):
            return None
        return decode64(body[:_GROUP_CHARS])

    @staticmethod
    def _tag(key: bytes, body: str) -> str:
        return encode64(hmac.digest(key, body.encode(), "sha256")[:TAG_BYTES])


def group_of(session_id: str) -> GroupID:
    """The group of a session ID, whoever made it: `SessionIDs.group` verifies.

    Raises:
        ValueError: it does not look like a session ID.
    """
    if _SESSION_ID.fullmatch(session_id) is None:
        raise ValueError(f"a session ID has {SESSION_ID_CHARS} letters, digits, `_` or `-`")
    return decode64(session_id[:_GROUP_CHARS])


def session_key(session_id: str, virtual_server: str) -> SessionKey:
    """What a session is stored under: a SHA-256 of its secret part, apart by virtual server."""
    secret = session_id[_GROUP_CHARS : _GROUP_CHARS + _SECRET_CHARS]
    return hashlib.sha256(f"{virtual_server}\0{secret}".encode()).digest()[:16]


def encode64(data: bytes) -> str:
    """URL-safe base64 without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode64(text: str) -> bytes:
    """The inverse of `encode64`; ValueError for anything that it did not write."""
    data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode64(data) != text:
        raise ValueError("not URL-safe base64")
    return data

"""Whose sessions are, in a node's store: an index by subject, and the log-outs of subjects.

Everything here is synchronous and pure over a store transaction. A session without a subject has
no row here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final

import msgspec

from sessionha.identity import GROUP_BYTES, GroupID, SessionKey
from sessionha.peer.messages import Owner, Revocation
from sessionha.state.records import get_session
from sessionha.store.base import Reader, Writer

INDEX: Final = b"\x02"
"""First byte of the rows `subject · group · session`, which have no value."""

LOG_OUTS: Final = b"\x03"
"""First byte of the rows that have the revocations of a subject."""

HASH_BYTES: Final = 32

REMEMBERED: Final = 31 * 86_400_000
"""Milliseconds that a log-out is kept at least, for it does a tombstone's work where no holder
could be reached: a day longer than the absence after which a node drops its copies
(`TOMBSTONE_TTL`), so that one that returns just before still learns it."""

SKEW: Final = 2_000
"""ε, milliseconds: a session that began this much later than a log-out began after it, also where
nobody knew of the log-out. Ages travel, so an instant is wrong by the time of a few messages."""

DAY: Final = 86_400_000
"""Milliseconds: a session that began so long before a log-out cannot have begun knowing it,
whatever the numbers say, which begin anew when every log-out of a subject is forgotten."""

HANDLES: Final = 1_000
"""Single sessions of a subject whose log-out is remembered; the oldest give way."""

PAGE_BYTES: Final = 64 * 1024
"""Bytes of log-outs in one message, about."""

_GROUP: Final = 1 + HASH_BYTES
_SESSION: Final = _GROUP + GROUP_BYTES

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[Revocation, ...]).decode

Revocations = tuple[Revocation, ...]


@lru_cache(4096)
def hash_of(subject: str) -> bytes:
    """What a subject is found under, and what names it in messages."""
    return hashlib.sha256(b"sessionha subject\0" + subject.encode()).digest()


# --- the index -----------------------------------------------------------------------------------


def index_key(group: GroupID, session: SessionKey, owner: Owner) -> bytes:
    """The key of a session's row in the index."""
    return INDEX + hash_of(owner.subject) + group + session


def index(
    writer: Writer,
    group: GroupID,
    session: SessionKey,
    before: Owner | None,
    after: Owner | None,
) -> None:
    """Follow a session that was one subject's and is another's, or nobody's."""
    if before is after:
        return
    old = None if before is None else index_key(group, session, before)
    new = None if after is None else index_key(group, session, after)
    if old == new:
        return
    if old is not None:
        writer.delete(old)
    if new is not None:
        writer.put(new, b"")


def sessions_of(reader: Reader, subject: bytes) -> Iterator[tuple[GroupID, SessionKey]]:
    """The sessions of a subject that the index has, those past their deadlines included."""
    for key, _ in reader.scan(INDEX + subject):
        yield key[_GROUP:_SESSION], key[_SESSION:]


# --- log-outs ------------------------------------------------------------------------------------


def revocations(reader: Reader, subject: bytes) -> Revocations:
    """What is known of a subject's log-outs."""
    data = reader.get(LOG_OUTS + subject)
    return () if data is None else _decode(data)


def is_denied(reader: Reader, owner: Owner) -> bool:
    """Whether a log-out that is known here means the session with this owner."""
    data = reader.get(LOG_OUTS + hash_of(owner.subject))
    return data is not None and are_meant(_decode(data), owner)


def are_meant(known: Revocations, owner: Owner) -> bool:
    """Whether one of these log-outs means the session with this owner."""
    return any(means(each, owner) for each in known)


def means(revocation: Revocation, owner: Owner) -> bool:
    """Whether a log-out means a session.

    One that began where the log-out was known began after it; so did one that began long enough
    after it by the clock. In doubt it is meant: somebody logs in once more.
    """
    if revocation.only:
        return owner.handle in revocation.only
    if owner.handle in revocation.kept:
        return False
    if owner.seen >= revocation.number and owner.since > revocation.at - DAY:
        return False
    return owner.since < revocation.at + SKEW


def aged(owner: Owner, now: int) -> Owner:
    """The instant since when it is the owner as an age, for a message; and back."""
    return msgspec.structs.replace(owner, since=now - owner.since)


def taken(reader: Reader, asked: Owner, now: int) -> Owner:
    """The owner that a session gets now. It has not seen log-outs that are about to be forgotten:
    their numbers are given again, and it is surely later than they are."""
    known = revocations(reader, hash_of(asked.subject))
    fresh = (each.number for each in known if each.at + REMEMBERED - 2 * DAY > now)
    seen = max(fresh, default=0)
    return Owner(asked.subject, asked.virtual_server, asked.handle, now, seen)


def decree(
    writer: Writer,
    subject: bytes,
    name: bytes,
    now: int,
    *,
    kept: tuple[Owner, ...] = (),
    only: tuple[bytes, ...] = (),
) -> Revocation:
    """Write a log-out under the random `name`: of those with the handles `only`, or else of every
    session of the subject but those `kept`.

    It takes the place of earlier ones, but of none that means a session which it would spare.
    """
    known = sorted(revocations(writer, subject), key=lambda each: each.number)
    number = max((each.number for each in known), default=0) + 1
    useless = [each for each in known if not each.only and not _means_one(each, kept)]
    if only:
        useless = [each for each in known if each.only]
        before = (handle for each in useless for handle in each.only if handle not in only)
        only = (*before, *only)[-HANDLES:]
    made = Revocation(
        id=name,
        number=number,
        at=now,
        kept=tuple(owner.handle for owner in kept),
        only=only,
        over=tuple(each.id for each in useless),
    )
    learn(writer, subject, (made,))
    return made


def _means_one(revocation: Revocation, sessions: Iterable[Owner]) -> bool:
    return any(means(revocation, owner) for owner in sessions)


def is_latest(reader: Reader, subject: bytes, made: Revocation) -> bool:
    """Whether no other log-out that is known has its number, or a higher one."""
    others = (each for each in revocations(reader, subject) if each.id != made.id)
    return all(each.number < made.number for each in others)


def learn(writer: Writer, subject: bytes, told: Iterable[Revocation]) -> bool:
    """Add log-outs with instants of this node's clock; whether any was news."""
    before = revocations(writer, subject)
    known = {each.id: each for each in before}
    for each in told:
        old = known.get(each.id)
        if old is None or each.at < old.at:  # told twice: messages take time, the earlier is right
            known[each.id] = each
    useless = {name for each in known.values() for name in each.over}
    after = tuple(each for name, each in sorted(known.items()) if name not in useless)
    if after == before:
        return False
    writer.put(LOG_OUTS + subject, _encode(after))
    return True


def forget(writer: Writer, subject: bytes, now: int) -> None:
    """Forget the log-outs that are old enough, but none that means a session of which a copy is
    here: that would be back."""
    held = [get_session(writer, group, key) for group, key in sessions_of(writer, subject)]
    theirs = [session.owner for session in held if session is not None and session.owner]
    after = tuple(
        each
        for each in revocations(writer, subject)
        if each.at + REMEMBERED > now or _means_one(each, theirs)
    )
    if after:
        writer.put(LOG_OUTS + subject, _encode(after))
    else:
        writer.delete(LOG_OUTS + subject)


def turned(revocation: Revocation, now: int) -> Revocation:
    """The instant as an age, for a message; and back."""
    return msgspec.structs.replace(revocation, at=now - revocation.at)


def page(reader: Reader, after: bytes, now: int) -> tuple[tuple[bytes, Revocations], ...]:
    """Log-outs by subject, above the subject `after`, as they travel; as many as one message
    takes."""
    found: list[tuple[bytes, Revocations]] = []
    room = PAGE_BYTES
    for key, value in reader.scan(LOG_OUTS, after=LOG_OUTS + after):
        found.append((key[1:], tuple(turned(each, now) for each in _decode(value))))
        room -= len(key) + len(value)
        if room <= 0:
            break
    return tuple(found)


def over(reader: Reader, now: int) -> list[bytes]:
    """Subjects of whose log-outs some may be forgotten."""
    return [
        key[1:]
        for key, value in reader.scan(LOG_OUTS)
        if any(each.at + REMEMBERED <= now for each in _decode(value))
    ]

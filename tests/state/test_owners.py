"""The index of sessions by subject, and what a log-out means."""

from __future__ import annotations

import random

import msgspec
import pytest

from sessionha.errors import SessionRevoked
from sessionha.identity import GroupID
from sessionha.peer.messages import Owner, Revocation, SessionChange, SessionRow
from sessionha.state import copies, owners
from sessionha.state.owners import HANDLES, REMEMBERED, SKEW, hash_of, means
from sessionha.state.records import (
    SessionRecord,
    get_group,
    get_session,
    read_session,
    rows,
    write_record,
)
from sessionha.store.base import Reader
from sessionha.store.memory import MemoryStore
from tests.state.test_copies import CREATE, E1, E2, GROUP, KEY, OTHER, Copy, puts

SUBJECT = hash_of("user:42")


def owner(
    subject: str = "user:42", handle: bytes = b"h", *, since: int = 0, seen: int = 0
) -> Owner:
    return Owner(subject, "default", handle, since, seen)


def indexed(reader: Reader) -> set[bytes]:
    return {key for key, _ in reader.scan(owners.INDEX)}


def scanned(reader: Reader, group: GroupID = GROUP) -> set[bytes]:
    """What the index must have: found by reading every session."""
    found = set()
    for row in rows(reader, group):
        session = read_session(row.value) if row.element is None else None
        if session is not None and session.owner is not None:
            assert not session.destroyed, "a tombstone is nobody's"
            found.add(owners.index_key(group, row.session, session.owner))
    return found


@pytest.fixture
def copy() -> Copy:
    made = Copy()
    made.crown(E1)
    made.merge(SessionChange(KEY, create=CREATE, puts=puts(a="1"), owner=owner()))
    return made


def owner_of(copy: Copy, key: bytes = KEY) -> Owner | None:
    with copy.store.read() as reader:
        session = get_session(reader, GROUP, key)
    assert session is not None
    return session.owner


# --- the index -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_the_index_equals_a_scan_after_whatever_was_done(seed: int) -> None:
    """Contract G6: a log-out finds every session, because the index never lacks or invents one."""
    chance = random.Random(seed)
    primary, backup = Copy(), Copy(5_000_000)
    primary.crown(E1)
    keys = [bytes([number]) * 16 for number in range(5)]
    for step in range(150):
        primary.now += 1000
        key, other = chance.sample(keys, 2)
        asked = chance.choice(
            [None, None, owner("", b""), owner("a", bytes([step])), owner("b", bytes([step]))]
        )
        change = chance.choice(
            [
                SessionChange(key, create=CREATE, puts=puts(x="1"), owner=asked),
                SessionChange(key, puts=puts(x="2"), owner=asked),
                SessionChange(key, clear=True, owner=asked),
                SessionChange(other, replaces=key, owner=asked),
                SessionChange(key, destroy=True),
            ]
        )
        if change.create is not None or change.replaces is not None:
            primary.merge(SessionChange(change.key, destroy=True))  # an ID is never used twice
        try:
            primary.merge(change)
        except SessionRevoked:
            continue
        match chance.randrange(8):
            case 0:
                backup.accept(primary.content())
            case 1:
                with backup.store.write() as writer:
                    record = get_group(writer, GROUP)
                    if record is not None:
                        copies.give_up(writer, GROUP, record, 0)
            case 2:
                backup.accept(copies.delta_push(GROUP, primary.record, primary.record.position,
                                                copies.Delta((), ())))  # fmt: skip
            case _:
                backup.take(primary)
        for each in (primary, backup):
            with each.store.read() as reader:
                assert indexed(reader) == scanned(reader)


def test_a_session_without_a_subject_has_no_row_besides() -> None:
    made = Copy()
    made.crown(E1)
    made.merge(SessionChange(KEY, create=CREATE, puts=puts(a="1")))
    made.merge(SessionChange(OTHER, replaces=KEY))
    with made.store.read() as reader:
        assert indexed(reader) == set()
        assert [*reader.scan(owners.LOG_OUTS)] == []


def test_a_row_from_before_there_were_subjects_is_read() -> None:
    record = SessionRecord(1, 2, 3, 4, 5, 6, size=7, count=8)
    old = msgspec.msgpack.encode(msgspec.msgpack.decode(write_record(record))[:-1])
    assert read_session(old) == record
    row = SessionRow(KEY, 1, 2, 3, 4, 5, 6, 7, 8)
    sent = msgspec.msgpack.encode(msgspec.msgpack.decode(msgspec.msgpack.encode(row))[:-1])
    assert msgspec.msgpack.decode(sent, type=SessionRow) == row


# --- whose a session is --------------------------------------------------------------------------


def test_a_renewed_session_stays_its_subject_s_under_the_same_handle(copy: Copy) -> None:
    copy.now += 10_000
    before = owner_of(copy)
    copy.merge(SessionChange(OTHER, replaces=KEY))
    assert owner_of(copy, OTHER) == before
    assert owner_of(copy) is None
    with copy.store.read() as reader:
        assert [*owners.sessions_of(reader, SUBJECT)] == [(GROUP, OTHER)]


def test_the_same_subject_again_changes_nothing_and_another_one_begins_anew(copy: Copy) -> None:
    before = owner_of(copy)
    copy.now += 10_000
    copy.merge(SessionChange(KEY, owner=owner(handle=b"other")))
    assert owner_of(copy) == before
    copy.merge(SessionChange(KEY, owner=owner("user:7", b"new")))
    assert owner_of(copy) == owner("user:7", b"new", since=copy.now)
    copy.merge(SessionChange(KEY, owner=owner("")))
    assert owner_of(copy) is None


def test_since_when_travels_as_an_age_and_is_never_later_than_first_told(copy: Copy) -> None:
    backup = Copy(9_000_000)
    copy.now += 30_000
    backup.take(copy)
    first = owner_of(backup)
    assert first is not None
    assert first.since == backup.now - 30_000
    backup.now += 500  # a message that took half a second
    copy.put(a="2")
    backup.take(copy)
    assert owner_of(backup) == first


def test_no_record_or_message_shows_a_subject() -> None:
    whose = owner("canary")
    shown = [
        whose,
        SessionRecord(1, 2, 3, 4, 5, 6, owner=whose),
        SessionRow(KEY, 1, 2, 3, 4, 5, 6, 7, 8, owner=whose),
        SessionChange(KEY, owner=whose),
    ]
    assert not [each for each in map(repr, shown) if "canary" in each]


# --- log-outs ------------------------------------------------------------------------------------


def test_what_a_log_out_means() -> None:
    """Contract G6: what was begun before it, unless kept; never what began after it."""
    every = Revocation(b"r", number=3, at=10_000)
    assert means(every, owner(since=9_000))
    assert means(every, owner(since=9_000, seen=2))
    assert not means(every, owner(since=9_000, seen=3)), "it began where the log-out was known"
    assert means(every, owner(since=10_000 + SKEW - 1)), "in doubt"
    assert not means(every, owner(since=10_000 + SKEW)), "surely later, though not known there"
    assert not means(Revocation(b"r", 3, 10_000, kept=(b"h",)), owner())
    assert means(Revocation(b"r", 3, 10_000, kept=(b"x",)), owner())
    one = Revocation(b"r", 3, 10_000, only=(b"h",))
    assert means(one, owner(since=99_000, seen=9)), "by name, whenever it began"
    assert not means(one, owner(handle=b"x"))


def test_a_session_that_begins_after_a_log_out_has_seen_it(copy: Copy) -> None:
    """Contract G6, the other way round: whoever logs in again stays logged in."""
    with copy.store.write() as writer:
        owners.decree(writer, SUBJECT, b"r1", copy.now)
    with pytest.raises(SessionRevoked):
        copy.put(a="2")
    with pytest.raises(SessionRevoked):
        copy.merge(SessionChange(OTHER, replaces=KEY))
    copy.merge(SessionChange(OTHER, create=CREATE, puts=puts(a="1"), owner=owner(handle=b"new")))
    copy.merge(SessionChange(OTHER, puts=puts(a="2")))
    assert copy.values(OTHER) == {"a": "2"}


def test_a_late_push_brings_a_log_out_s_session_back_to_nobody(copy: Copy) -> None:
    """Contract G6: "log-out against replication": the row may come, the session stays denied."""
    backup = Copy(5_000_000)
    with backup.store.write() as writer:
        owners.decree(writer, SUBJECT, b"r1", backup.now)
    backup.take(copy)
    whose = owner_of(backup)
    assert whose is not None
    with backup.store.read() as reader:
        assert owners.is_denied(reader, whose)
    backup.crown(E2)
    with pytest.raises(SessionRevoked):
        backup.put(a="2")


def test_who_gets_a_copy_of_a_logged_out_session_gets_a_tombstone(copy: Copy) -> None:
    """Contract G6: also who has forgotten the log-out, while an old copy was somewhere."""
    with copy.store.write() as writer:
        owners.decree(writer, SUBJECT, b"r1", copy.now)
    for known in (Copy(5_000_000), Copy(9_000_000)):
        known.accept(copy.content())
        with known.store.read() as reader:
            session = get_session(reader, GROUP, KEY)
            assert session is not None
            assert session.destroyed
            assert indexed(reader) == set()
        assert known.values(KEY) == {}


@pytest.mark.parametrize("age", [0, 1, 28, 29, 30, 31])
def test_a_log_out_means_who_began_knowing_one_that_is_forgotten(age: int) -> None:
    """Contract G6: its number may be given again; who began `age` days after it is meant."""
    store = MemoryStore().open()
    with store.write() as writer:
        owners.decree(writer, SUBJECT, b"first", 0)
        after = owners.taken(writer, owner(), age * owners.DAY + 1)
        assert not owners.is_denied(writer, after)
        owners.forget(writer, SUBJECT, REMEMBERED)
        owners.decree(writer, SUBJECT, b"second", REMEMBERED + 5)
        assert owners.is_denied(writer, after)


def test_a_log_out_is_remembered_while_what_it_means_is_here(copy: Copy) -> None:
    """Contract G6: and for longer than a node may be away without dropping its copies."""
    assert REMEMBERED > copies.TOMBSTONE_TTL
    with copy.store.write() as writer:
        owners.decree(writer, SUBJECT, b"r1", copy.now)
        owners.forget(writer, SUBJECT, copy.now + 2 * REMEMBERED)
        assert owners.revocations(writer, SUBJECT)
    copy.merge(SessionChange(KEY, destroy=True))
    with copy.store.write() as writer:
        owners.forget(writer, SUBJECT, copy.now + REMEMBERED - 1)
        assert owners.revocations(writer, SUBJECT)
        owners.forget(writer, SUBJECT, copy.now + REMEMBERED)
        assert not owners.revocations(writer, SUBJECT)


def test_log_outs_of_a_subject_take_little_room() -> None:
    """I17: a user who presses the button all day leaves one or two rows' worth."""
    store = MemoryStore().open()
    with store.write() as writer:
        for number in range(HANDLES + 50):
            owners.decree(writer, SUBJECT, b"%d" % number, 5, only=(b"h%d" % number,))
        (single,) = owners.revocations(writer, SUBJECT)
        assert len(single.only) == HANDLES
        assert single.only[-1] == b"h%d" % (HANDLES + 49)
        last = owners.decree(writer, SUBJECT, b"all", 6)
        assert {*owners.revocations(writer, SUBJECT)} == {single, last}
        kept = owner(handle=b"k", since=7, seen=last.number)
        others = owners.decree(writer, SUBJECT, b"others", 8, kept=(kept,))
        assert {*owners.revocations(writer, SUBJECT)} == {single, others}
        assert not means(others, kept)


def test_a_log_out_spares_nobody_whom_an_earlier_one_means() -> None:
    """Contract G6: also who is named to be kept; and whoever made it knew less of the subject."""
    store = MemoryStore().open()
    named, old = owner(handle=b"named", since=1, seen=9), owner(handle=b"old", since=1)
    with store.write() as writer:
        owners.decree(writer, SUBJECT, b"one", 5, only=(named.handle,))
        owners.decree(writer, SUBJECT, b"all", 5)
        for number in range(3):
            owners.decree(writer, SUBJECT, b"%d" % number, 6, kept=(named, old))
        known = owners.revocations(writer, SUBJECT)
    assert owners.are_meant(known, named)
    assert owners.are_meant(known, old)
    assert len(known) == 3


def test_nodes_that_tell_each_other_log_outs_in_any_order_agree() -> None:
    stores = [MemoryStore().open() for _ in range(2)]
    made = []
    for index, store in enumerate(stores):
        with store.write() as writer:
            made.append(owners.decree(writer, SUBJECT, b"%d" % index, 1000))
    for store, told in zip(stores, reversed(made), strict=True):
        with store.write() as writer:
            assert owners.learn(writer, SUBJECT, (told,))
            later = msgspec.structs.replace(told, at=told.at + 30)
            assert not owners.learn(writer, SUBJECT, (later,)), "nothing new"
    known = []
    for store in stores:
        with store.read() as reader:
            known.append(owners.revocations(reader, SUBJECT))
    assert known[0] == known[1]
    assert {each.id for each in known[0]} == {b"0", b"1"}


def test_log_outs_travel_in_pages_and_end_with_the_tombstones() -> None:
    """R11: as long as any session that they mean could be somewhere."""
    store = MemoryStore().open()
    subjects = [hash_of(f"user:{number}") for number in range(1500)]
    with store.write() as writer:
        for subject in subjects:
            owners.decree(writer, subject, b"12345678", 1000)
    told: list[bytes] = []
    pages = 0
    with store.read() as reader:
        while page := owners.page(reader, told[-1] if told else b"", 5000):
            told += [subject for subject, _ in page]
            pages += 1
            assert all(each.at == 4000 for _, known in page for each in known), "an age"
        assert owners.over(reader, 1000 + REMEMBERED - 1) == []
        over = owners.over(reader, 1000 + REMEMBERED)
    assert told == sorted(subjects)
    assert pages > 1
    with store.write() as writer:
        for subject in over:
            owners.forget(writer, subject, 1000 + REMEMBERED)
        assert [*writer.scan(owners.LOG_OUTS)] == []

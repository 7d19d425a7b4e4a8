"""One transaction on a copy: batches merge whole or not at all, pushes fit or do not (R8)."""

from __future__ import annotations

import pytest

from sessionha.errors import SessionRevoked, SessionTooLarge
from sessionha.identity import NO_POSITION, Epoch, Position, ViewID
from sessionha.peer.messages import Batch, Create, Push, SessionChange
from sessionha.state import copies
from sessionha.state.copies import ELEMENT_TOMBSTONES, Delta, Limits
from sessionha.state.records import (
    GroupRecord,
    elements,
    get_group,
    get_session,
    group_key,
    rows,
    write_record,
)
from sessionha.store.memory import MemoryStore

GROUP = b"\x05" * 12
KEY, OTHER = b"\x01" * 16, b"\x02" * 16
E1, E2, E3 = (Epoch(1, attempt, f"n{attempt}") for attempt in (1, 2, 3))
VIEW = ViewID(1, "n1")
CREATE = Create(idle_timeout=60_000, lifetime=600_000)


class Copy:
    """One node's copy of a group; its clock shows what the test says."""

    def __init__(self, now: int = 1_000_000) -> None:
        self.store = MemoryStore().open()
        self.now = now

    @property
    def record(self) -> GroupRecord:
        with self.store.read() as reader:
            found = get_group(reader, GROUP)
        assert found is not None
        return found

    def crown(self, epoch: Epoch) -> None:
        """Begin an epoch here with a version of its own."""
        with self.store.write() as writer:
            record = get_group(writer, GROUP) or GroupRecord()
            record.acked = record.version
            record.version += 1
            record.epoch = record.promise = epoch
            record.line = (*record.line, (epoch, record.version))
            record.holders = (epoch.node,)
            record.synced = VIEW
            writer.put(group_key(GROUP), write_record(record))

    def merge(self, *changes: SessionChange, limits: Limits | None = None) -> Delta:
        with self.store.write() as writer:
            record = get_group(writer, GROUP)
            assert record is not None
            delta = copies.merge(
                writer, record, Batch(GROUP, changes), self.now, limits or Limits()
            )
            writer.put(group_key(GROUP), write_record(record))
        return delta

    def put(self, **values: str) -> Delta:
        return self.merge(SessionChange(KEY, puts=puts(**values)))

    def delete(self, *names: str) -> Delta:
        return self.merge(SessionChange(KEY, deletes=names))

    def confirm(self) -> None:
        """All of C has everything."""
        with self.store.write() as writer:
            record = get_group(writer, GROUP)
            assert record is not None
            record.acked = record.version
            writer.put(group_key(GROUP), write_record(record))

    def content(self, position: Position = NO_POSITION) -> Push:
        with self.store.read() as reader:
            return copies.content(reader, GROUP, self.record, position, self.now)

    def fits(self, push: Push) -> bool:
        with self.store.read() as reader:
            return copies.fits(get_group(reader, GROUP), push)

    def accept(self, push: Push) -> None:
        with self.store.write() as writer:
            record = get_group(writer, GROUP) or GroupRecord()
            copies.accept(writer, record, push, self.now, VIEW)

    def take(self, source: Copy) -> Push:
        """Be brought up to date by another copy, as `Behind` asks for."""
        push = source.content(self.position)
        assert self.fits(push)
        self.accept(push)
        return push

    @property
    def position(self) -> Position:
        with self.store.read() as reader:
            record = get_group(reader, GROUP)
        return record.position if record is not None and record.held else NO_POSITION

    def values(self, key: bytes = KEY) -> dict[str, str]:
        with self.store.read() as reader:
            return {
                name: element.value.decode()
                for name, element in elements(reader, GROUP, key)
                if element.value is not None
            }

    def tombstones(self) -> set[str]:
        with self.store.read() as reader:
            return {name for name, element in elements(reader, GROUP, KEY) if element.value is None}

    def raw(self) -> list[object]:
        with self.store.read() as reader:
            return list(rows(reader, GROUP))


def puts(**values: str) -> tuple[tuple[str, str, bytes], ...]:
    return tuple((name, "value", value.encode()) for name, value in values.items())


@pytest.fixture
def primary() -> Copy:
    copy = Copy()
    copy.crown(E1)
    copy.merge(SessionChange(KEY, create=CREATE, puts=puts(a="1", b="2")))
    return copy


def twin(primary: Copy) -> Copy:
    backup = Copy(now=5)
    backup.take(primary)
    return backup


# --- merging -------------------------------------------------------------------------------------


def test_a_batch_changes_what_it_names_under_one_version(primary: Copy) -> None:
    """System 2 (c) and (g): add, replace and remove are one version."""
    delta = primary.merge(SessionChange(KEY, puts=puts(a="9", c="3"), deletes=("b",)))
    assert primary.values() == {"a": "9", "c": "3"}
    versions = [row.version for row in delta.sessions] + [row.version for row in delta.elements]
    assert set(versions) == {primary.record.version}
    assert {(row.name, row.value) for row in delta.elements} == {
        ("a", b"9"), ("c", b"3"), ("b", None)
    }  # fmt: skip
    assert primary.tombstones() == {"b"}
    assert primary.record.tombstones == 1


def test_deleting_what_is_not_there_changes_nothing(primary: Copy) -> None:
    assert primary.delete("nothing").elements == ()


def test_size_and_count_follow_every_change(primary: Copy) -> None:
    primary.put(a="1234")
    primary.delete("b")
    primary.put(b="5")
    with primary.store.read() as reader:
        session = get_session(reader, GROUP, KEY)
    assert session is not None
    assert (session.count, session.size) == (2, len("a1234") + len("b5"))
    assert primary.record.tombstones == 0


def test_clear_leaves_tombstones_and_the_new_elements(primary: Copy) -> None:
    backup = twin(primary)
    primary.merge(SessionChange(KEY, clear=True, puts=puts(c="3")))
    assert primary.values() == {"c": "3"}
    backup.take(primary)
    assert backup.values() == {"c": "3"}


def test_a_renewal_moves_everything_and_leaves_a_tombstone(primary: Copy) -> None:
    """I16: the old ID is never valid again, on no copy."""
    backup = twin(primary)
    primary.merge(SessionChange(OTHER, replaces=KEY, puts=puts(c="3")))
    backup.take(primary)
    for copy in (primary, backup):
        assert copy.values(OTHER) == {"a": "1", "b": "2", "c": "3"}
        assert copy.values(KEY) == {}
        with copy.store.read() as reader:
            old, new = (get_session(reader, GROUP, key) for key in (KEY, OTHER))
        assert old is not None
        assert new is not None
        assert (old.destroyed, new.destroyed) == (True, False)
        assert new.created == copy.now
    with pytest.raises(SessionRevoked):
        primary.put(d="4")


def test_a_destroyed_session_is_remembered_until_its_lifetime_ends(primary: Copy) -> None:
    """R11."""
    primary.merge(SessionChange(KEY, destroy=True))
    with primary.store.read() as reader:
        session = get_session(reader, GROUP, KEY)
    assert session is not None
    assert session.destroyed
    assert session.deadline == primary.now + CREATE.lifetime
    with pytest.raises(SessionRevoked):
        primary.put(a="2")


def test_without_a_lifetime_a_tombstone_lives_for_its_own_time() -> None:
    """R11: at most `tombstone_ttl`."""
    copy = Copy()
    copy.crown(E1)
    copy.merge(SessionChange(KEY, create=Create(60_000, 0)))
    copy.merge(SessionChange(KEY, destroy=True))
    with copy.store.read() as reader:
        session = get_session(reader, GROUP, KEY)
    assert session is not None
    assert session.deadline == copy.now + copies.TOMBSTONE_TTL


def test_an_expired_session_takes_no_changes(primary: Copy) -> None:
    """I13."""
    primary.now += CREATE.idle_timeout
    with pytest.raises(SessionRevoked):
        primary.put(a="2")


@pytest.mark.parametrize(
    ("limits", "setting"),
    [(Limits(session_bytes=10), "session_bytes"), (Limits(elements=3), "elements")],
)
def test_beyond_a_limit_nothing_is_changed(primary: Copy, limits: Limits, setting: str) -> None:
    """I17, G5: also the batch's other changes are undone."""
    before = primary.raw(), primary.record
    change = SessionChange(OTHER, create=CREATE, puts=puts(x="1"))
    large = SessionChange(KEY, puts=puts(c="12345", d="67890"))
    with pytest.raises(SessionTooLarge, match=setting):
        primary.merge(change, large, limits=limits)
    assert (primary.raw(), primary.record) == before


def test_a_batch_with_one_revoked_session_is_dropped_whole(primary: Copy) -> None:
    """G5: all of them or none."""
    before = primary.raw(), primary.record
    with pytest.raises(SessionRevoked):
        primary.merge(SessionChange(KEY, puts=puts(a="2")), SessionChange(OTHER, puts=puts(x="1")))
    assert (primary.raw(), primary.record) == before


# --- pushes --------------------------------------------------------------------------------------


def test_a_copy_at_the_base_takes_the_difference(primary: Copy) -> None:
    """R8; system 2 (a): only what changed travels."""
    backup = twin(primary)
    base = primary.record.position
    delta = primary.put(a="2")
    push = copies.delta_push(GROUP, primary.record, base, delta)
    assert [row.name for row in push.elements] == ["a"]
    assert not push.full
    assert backup.fits(push)
    backup.accept(push)
    assert backup.values() == {"a": "2", "b": "2"}
    assert backup.record.position == primary.record.position


def test_a_push_at_the_same_position_changes_nothing(primary: Copy) -> None:
    """R8: idempotent."""
    backup = twin(primary)
    base = primary.record.position
    push = copies.delta_push(GROUP, primary.record, base, primary.put(a="2"))
    backup.accept(push)
    before = backup.raw(), backup.record
    assert backup.fits(push)
    backup.accept(push)
    assert (backup.raw(), backup.record) == before


def test_a_copy_below_the_base_does_not_take_the_difference(primary: Copy) -> None:
    """R8: "missing base"; it says where it is and gets what it lacks."""
    backup = twin(primary)
    primary.put(a="2")
    base = primary.record.position
    push = copies.delta_push(GROUP, primary.record, base, primary.put(b="3"))
    assert not backup.fits(push)
    caught_up = backup.take(primary)
    assert not caught_up.full
    assert backup.values() == primary.values()


def test_a_copy_of_an_older_epoch_of_the_line_takes_the_difference(primary: Copy) -> None:
    backup = twin(primary)
    primary.crown(E2)
    primary.put(c="3")
    push = backup.take(primary)
    assert not push.full
    assert [row.name for row in push.elements] == ["c"]
    assert backup.record.position == primary.record.position


def test_a_copy_beyond_the_end_of_its_epoch_gets_everything(primary: Copy) -> None:
    """R8: what it has beyond was never confirmed, and it drops what is not in the group."""
    stray = twin(primary)
    stray.put(lost="1")
    primary.crown(E2)
    primary.put(c="3")
    difference = primary.content(Position(E1, primary.record.line[1][1] - 1))
    assert not difference.full
    assert not stray.fits(difference)
    assert stray.take(primary).full
    assert stray.values() == primary.values() == {"a": "1", "b": "2", "c": "3"}


def test_a_copy_of_an_unknown_epoch_gets_everything(primary: Copy) -> None:
    stray = twin(primary)
    stray.crown(E3)
    stray.put(lost="1")
    primary.crown(E2)
    assert not stray.fits(primary.content(primary.record.position))
    assert stray.take(primary).full
    assert "lost" not in stray.values()


def test_no_copy_fits_no_difference(primary: Copy) -> None:
    assert not Copy().fits(primary.content(primary.record.position))
    assert primary.content().full


def test_a_copy_older_than_the_oldest_tombstone_gets_everything(primary: Copy) -> None:
    """R8: what it does not know to be deleted must not stay."""
    backup = twin(primary)
    primary.delete("b")
    for index in range(ELEMENT_TOMBSTONES + 1):
        primary.put(**{f"e{index}": "x"})
        primary.delete(f"e{index}")
        primary.confirm()
    assert primary.record.trimmed > backup.position.version
    assert backup.take(primary).full
    assert backup.values() == {"a": "1"}


def test_tombstones_stay_until_all_of_c_passed_them(primary: Copy) -> None:
    """R8: trimming never goes beyond what is confirmed."""
    for index in range(ELEMENT_TOMBSTONES + 5):
        primary.put(**{f"e{index}": "x"})
        primary.delete(f"e{index}")
    assert primary.record.trimmed == 0
    assert len(primary.tombstones()) == ELEMENT_TOMBSTONES + 5
    primary.confirm()
    primary.put(a="2")
    assert primary.tombstones() == set()
    assert primary.record.tombstones == 0


def test_a_backup_trims_with_its_primary(primary: Copy) -> None:
    """I17: tombstones of elements do not gather on backups."""
    backup = twin(primary)
    for index in range(5 * ELEMENT_TOMBSTONES):
        primary.put(**{f"e{index}": "x"})
        primary.delete(f"e{index}")
        primary.confirm()
        backup.take(primary)
        assert len(backup.tombstones()) <= ELEMENT_TOMBSTONES + 1
    assert backup.tombstones() == primary.tombstones()


def test_a_whole_copy_can_tell_others_what_was_deleted(primary: Copy) -> None:
    """R8: a copy that was sent whole serves differences as well as the one it came from."""
    late = twin(primary)
    primary.delete("b")
    whole = twin(primary)
    whole.crown(E2)
    assert not late.take(whole).full
    assert late.values() == {"a": "1"}


def test_destroyed_sessions_do_not_leave_a_count_of_tombstones(primary: Copy) -> None:
    """The count is a trigger: a trim counts afresh what destroyed sessions took with them."""
    for _ in range(3):
        primary.merge(SessionChange(OTHER, create=CREATE, puts=puts(x="1")))
        primary.merge(SessionChange(OTHER, deletes=("x",)))
        primary.merge(SessionChange(OTHER, destroy=True))
    for index in range(ELEMENT_TOMBSTONES + 1):
        primary.put(**{f"e{index}": "x"})
        primary.delete(f"e{index}")
        primary.confirm()
    primary.put(a="3")
    assert primary.record.tombstones == len(primary.tombstones())


def test_deadlines_travel_as_what_is_left_and_a_touch_is_a_maximum(primary: Copy) -> None:
    """G10: neither a clock of another node nor a late push shortens or prolongs a session."""
    backup = twin(primary)
    with backup.store.read() as reader:
        session = get_session(reader, GROUP, KEY)
    assert session is not None
    assert session.deadline - backup.now == CREATE.idle_timeout
    assert session.lifetime - backup.now == CREATE.lifetime
    old = primary.content()
    primary.now += 1000
    primary.put(a="2")
    backup.now += 1000
    backup.take(primary)
    with backup.store.read() as reader:
        newer = get_session(reader, GROUP, KEY)
    assert newer is not None
    assert newer.deadline == backup.now + CREATE.idle_timeout
    assert not backup.fits(old) or old.full


def test_another_idle_timeout_counts_from_the_commit_on_in_every_copy(primary: Copy) -> None:
    backup = twin(primary)
    primary.now += 1000
    primary.merge(SessionChange(KEY, idle_timeout=5_000))
    backup.now += 1000
    backup.take(primary)
    for copy in (primary, backup):
        with copy.store.read() as reader:
            session = get_session(reader, GROUP, KEY)
        assert session is not None
        assert (session.idle_timeout, session.deadline - copy.now) == (5_000, 5_000)


def test_a_copy_that_is_given_up_leaves_its_promise(primary: Copy) -> None:
    """R1, R3: no late push brings it back, no older epoch is accepted."""
    with primary.store.write() as writer:
        record = get_group(writer, GROUP)
        assert record is not None
        record.promise = E3
        copies.give_up(writer, GROUP, record, 77)
    left = primary.record
    assert not left.held
    assert (left.promise, left.keep_until) == (E3, 77)
    assert primary.raw() == []


def test_a_session_that_shall_end_when_it_is_empty_ends(primary: Copy) -> None:
    primary.merge(SessionChange(KEY, deletes=tuple(primary.values()), ends_empty=True))
    with pytest.raises(SessionRevoked):
        primary.put(a="2")


def test_what_another_request_put_in_keeps_it_alive(primary: Copy) -> None:
    known = tuple(primary.values())
    primary.put(other="1")
    primary.merge(SessionChange(KEY, deletes=known, ends_empty=True))
    assert primary.values() == {"other": "1"}

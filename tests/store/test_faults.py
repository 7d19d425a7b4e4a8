"""What happens to the shared store when processes, files, memory and disks fail."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from sessionha.errors import StoreError, StoreFull
from sessionha.store import LMDBStore
from sessionha.store.lmdb import _process
from tests.store.conftest import MIB, StartEngine, in_child

SIZE = 4 * MIB


def open_store(directory: Path, **options: object) -> LMDBStore:
    return LMDBStore(directory, size=SIZE, **options).open()  # type: ignore[arg-type]


def put(store: LMDBStore, key: bytes, value: bytes) -> None:
    with store.write() as txn:
        txn.put(key, value)


def get(store: LMDBStore, key: bytes) -> bytes | None:
    with store.read() as txn:
        return txn.get(key)


def filled(directory: Path) -> str:
    """A closed store with 1,000 rows; its incarnation."""
    store = open_store(directory, writemap=False)
    with store.write() as txn:
        for number in range(1000):
            txn.put(b"%05d" % number, b"x" * 500)
    incarnation = store.incarnation
    store.close()
    return incarnation


def fill(store: LMDBStore) -> int:
    """Put rows of 4 KB until the store refuses; how many it took."""
    for number in range(20_000):
        try:
            put(store, b"%05d" % number, b"x" * 4000)
        except StoreFull:
            return number
    raise AssertionError("the store never became full")


# Restarts, boots and slots


def test_construction_touches_nothing(directory: Path) -> None:
    LMDBStore(directory, size=SIZE)
    assert not directory.exists()


def test_a_size_too_small_is_refused_at_construction(directory: Path) -> None:
    with pytest.raises(StoreError, match="store_size"):
        LMDBStore(directory, size=1000)


def test_a_restart_in_one_boot_keeps_incarnation_and_rows_and_counts_a_run(
    directory: Path,
) -> None:
    """system 7 (a): a node that finds its store whole goes on as the same member."""
    incarnation = filled(directory)
    store = open_store(directory)
    assert (store.incarnation, store.run, store.boot_changed) == (incarnation, 2, False)
    assert get(store, b"00500") == b"x" * 500
    store.close()


def test_a_store_of_another_boot_keeps_its_rows_under_a_new_incarnation(directory: Path) -> None:
    first = open_store(directory, boot="boot-1")
    put(first, b"a", b"1")
    incarnation = first.incarnation
    first.close()
    second = open_store(directory, boot="boot-2")
    sibling = open_store(directory, boot="boot-2")
    assert second.incarnation != incarnation
    assert (second.run, second.boot_changed, sibling.boot_changed) == (2, True, True)
    assert get(second, b"a") == b"1"
    second.close()
    sibling.close()
    third = open_store(directory, boot="boot-2")
    assert (third.run, third.boot_changed) == (3, False)
    third.close()


def test_directory_and_files_are_private(directory: Path) -> None:
    store = open_store(directory)
    store.try_lead()
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}
    store.close()


@pytest.mark.parametrize("writemap", [True, False])
def test_a_killed_engine_frees_slot_and_leadership(
    directory: Path, engine: StartEngine, writemap: bool
) -> None:
    """system 1 (b): an engine's death is seen by its siblings, and another one leads."""
    store = open_store(directory, writemap=writemap)
    other = engine("assert store.try_lead(); assert store.slot == 1")
    assert store.living_slots() == {0, 1}
    assert not store.try_lead()
    other.kill()
    assert store.living_slots() == {0}
    assert store.try_lead()
    assert store.run == 1
    store.close()


def test_the_node_lives_while_one_engine_does(directory: Path, engine: StartEngine) -> None:
    first = engine()
    second = engine("print(store.run)", wait=False)
    assert second.until_ready() == ["1"]
    first.kill()
    third = engine("print(store.run, store.slot)", wait=False)
    assert third.until_ready() == ["1 0"]
    second.kill()
    third.kill()
    store = open_store(directory)
    assert store.run == 2
    store.close()


def test_engines_that_start_at_once_get_slots_of_their_own(engine: StartEngine) -> None:
    engines = [engine("print(store.slot, store.run)", wait=False) for _ in range(4)]
    assert sorted(engine.until_ready()[0] for engine in engines) == ["0 1", "1 1", "2 1", "3 1"]


def test_a_store_opened_twice_in_a_process_is_one_environment(directory: Path) -> None:
    first = open_store(directory)
    second = open_store(directory / ".." / directory.name)
    put(first, b"a", b"1")
    first.close()
    assert get(second, b"a") == b"1"
    assert second.living_slots() == {1}
    second.close()
    again = open_store(directory)
    assert again.run == 2
    assert get(again, b"a") == b"1"
    again.close()


def test_one_engine_opens_once(directory: Path) -> None:
    store = open_store(directory)
    with pytest.raises(StoreError, match="already open"):
        store.open()
    store.close()


# Forks


@pytest.mark.parametrize("writemap", [True, False])
def test_a_forked_child_takes_its_own_environment_and_leaves_the_parents_alone(
    directory: Path, writemap: bool
) -> None:
    store = open_store(directory, writemap=writemap)
    put(store, b"a", b"1")
    assert store.try_lead()

    def child() -> None:
        with pytest.raises(StoreError, match="forked"):
            store.read()
        with pytest.raises(StoreError, match="forked"):
            store.write()
        store.open()
        assert store.slot == 1
        assert store.living_slots() == {0, 1}
        assert not store.try_lead()
        assert get(store, b"a") == b"1"
        put(store, b"a", b"2")
        store.close()

    assert in_child(child) == 0
    assert in_child(store.close) == 0
    assert get(store, b"a") == b"2"
    assert store.living_slots() == {0}
    assert store.run == 1
    assert in_child(lambda: _assert_led(directory)) == 0
    put(store, b"a", b"3")
    store.check()
    store.close()


def _assert_led(directory: Path) -> None:
    store = open_store(directory)
    assert store.slot == 1
    assert not store.try_lead()


def test_a_fork_in_the_middle_of_a_transaction_cannot_harm_it(directory: Path) -> None:
    store = open_store(directory)
    put(store, b"a", b"1")
    reading, forked = threading.Event(), threading.Event()
    seen: list[bytes | None] = []

    def read() -> None:
        with store.read() as txn:
            reading.set()
            forked.wait(20)
            seen.append(txn.get(b"a"))

    def child() -> None:
        with pytest.raises(StoreError, match="another thread used the store"):
            store.open()

    reader = threading.Thread(target=read)
    reader.start()
    assert reading.wait(20)
    assert in_child(child) == 0
    for number in range(50):
        put(store, b"a", b"x" * number)
    forked.set()
    reader.join()
    assert seen == [b"1"]
    store.close()


# Killed processes


@pytest.mark.parametrize("writemap", [True, False])
def test_a_writer_killed_in_its_transaction_changes_nothing_and_blocks_nobody(
    directory: Path, engine: StartEngine, writemap: bool
) -> None:
    store = open_store(directory, writemap=writemap)
    put(store, b"a", b"1")
    writer = engine(
        "writer = store.write()\n"
        "txn = writer.__enter__()\n"
        "for n in range(200): txn.put(b'%d' % n, b'x' * 5000)\n"
        "txn.put(b'a', b'2')"
    )
    writer.kill()
    store.check()
    put(store, b"b", b"1")
    assert get(store, b"a") == b"1"
    assert get(store, b"1") is None
    store.close()
    again = open_store(directory)
    assert again.run == 2
    assert get(again, b"b") == b"1"
    again.close()


def test_what_killed_readers_held_is_free_for_the_next_write(
    directory: Path, engine: StartEngine
) -> None:
    """Nobody, urgent or not, is told "full" because of snapshots that the dead were reading."""
    store = open_store(directory)
    put(store, b"a", b"x" * MIB)
    for urgent in (False, True):
        engine("reader = store.read()\nreader.__enter__()").kill()
        for _ in range(10):
            with store.write(urgent=urgent) as txn:
                txn.put(b"a", b"y" * MIB)
    store.close()


def test_processes_that_write_at_once_lose_nothing(directory: Path, engine: StartEngine) -> None:
    code = (
        "for _ in range(500):\n"
        "    with store.write() as txn:\n"
        "        txn.put(b'n', b'%d' % (int(txn.get(b'n') or b'0') + 1))"
    )
    for process in [engine(code, wait=False) for _ in range(3)]:
        process.until_ready()
    store = open_store(directory)
    assert get(store, b"n") == b"1500"
    store.close()


# Space


def test_a_full_tmpfs_is_a_clean_refusal(tmpfs: Callable[[str], Path]) -> None:
    directory = tmpfs("2m") / "store"
    store = LMDBStore(directory, size=64 * MIB).open()
    assert store.usage().limit <= 0.8 * 2 * MIB
    ballast = directory.parent / "ballast"
    put(store, b"a", b"1")
    ballast.write_bytes(b"x" * (MIB + MIB // 2))  # another program, behind the last look
    written = fill(store)
    assert 0 < written < 200
    assert get(store, b"a") == b"1"
    with store.read() as txn:
        assert len(list(txn.scan(b"0"))) == written
    ballast.unlink()
    store.check()
    put(store, b"b", b"1")
    store.close()
    again = LMDBStore(directory, size=64 * MIB).open()
    assert again.run == 2
    assert get(again, b"b") == b"1"
    again.close()


def test_a_writable_map_is_used_only_when_every_page_has_its_memory(
    tmpfs: Callable[[str], Path],
) -> None:
    store = LMDBStore(tmpfs("8m") / "store", size=64 * MIB, writemap=True).open()
    assert 500 < fill(store) < 2000
    store.close()


def test_a_file_system_without_any_room_is_a_store_error(tmpfs: Callable[[str], Path]) -> None:
    point = tmpfs("256k")
    (point / "ballast").write_bytes(b"x" * 250 * 1024)
    with pytest.raises(StoreError, match="No space"):
        open_store(point / "store")


def test_a_map_that_another_process_enlarged_is_followed(directory: Path) -> None:
    store = open_store(directory, writemap=False)
    put(store, b"a", b"1")

    def grow() -> None:
        _process.drop_inherited(directory)
        env = lmdb.open(os.fspath(directory), map_size=16 * MIB, sync=False)
        with env.begin(write=True) as txn:
            for number in range(2000):
                txn.put(b"%05d" % number, b"x" * 4000)
        env.close()

    assert in_child(grow) == 0
    assert get(store, b"01999") == b"x" * 4000
    with store.write(urgent=True) as txn:
        txn.delete(b"00001")
    assert get(store, b"00001") is None
    store.close()


# Foreign and damaged files


def test_a_directory_with_other_files_is_refused_by_name(directory: Path) -> None:
    directory.mkdir()
    (directory / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"notes\.txt.*SESSIONHA_STORE"):
        open_store(directory)
    assert [path.name for path in directory.iterdir()] == ["notes.txt"]


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a directory away needs root")
def test_a_directory_of_another_user_is_refused(directory: Path) -> None:
    directory.mkdir()
    os.chown(directory, 12345, 12345)
    with pytest.raises(StoreError, match="12345"):
        open_store(directory)


def test_a_file_where_the_directory_should_be_is_refused(directory: Path) -> None:
    directory.write_text("")
    with pytest.raises(StoreError, match="SESSIONHA_STORE"):
        open_store(directory)


def overwrite_all(data: Path) -> None:
    data.write_bytes(os.urandom(data.stat().st_size))


def overwrite_pages(data: Path) -> None:
    with data.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(os.urandom(data.stat().st_size - 3 * 4096))


def cut_in_half(data: Path) -> None:
    os.truncate(data, data.stat().st_size // 2)


def cut_to_a_page(data: Path) -> None:
    os.truncate(data, 5000)


def write_text(data: Path) -> None:
    data.write_bytes(b"not a database")


def write_foreign_rows(data: Path) -> None:
    data.unlink()
    env = lmdb.open(os.fspath(data.parent), map_size=MIB)
    with env.begin(write=True) as txn:
        txn.put(b"theirs", b"1")
    env.close()


def write_another_format(data: Path) -> None:
    (data.parent / "format").write_text("sessionha-store 2 1 2 3\n")


@pytest.mark.parametrize(
    "damage",
    [
        overwrite_all,
        overwrite_pages,
        cut_in_half,
        cut_to_a_page,
        write_text,
        write_foreign_rows,
        write_another_format,
    ],
)
def test_a_file_that_cannot_be_used_is_set_aside_and_the_node_begins_empty(
    directory: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """system 5 (k): amnesia is a new member, and what was found is never deleted silently."""
    incarnation = filled(directory)
    damage(directory / "data.mdb")
    found = (directory / "data.mdb").read_bytes()
    with caplog.at_level(logging.WARNING, "sessionha.store"):
        store = open_store(directory)
    assert store.incarnation != incarnation
    assert (store.run, store.boot_changed) == (1, False)
    with store.read() as txn:
        assert list(txn.scan(b"")) == []
    put(store, b"a", b"1")
    assert (directory / "data.mdb.corrupt-1").read_bytes() == found
    assert len(caplog.records) == 1
    assert "data.mdb.corrupt-1" in caplog.text
    store.close()


def test_damage_met_while_running_is_an_error_now_and_set_aside_at_the_next_start(
    directory: Path,
) -> None:
    filled(directory)
    store = open_store(directory, writemap=False)
    with (directory / "data.mdb").open("r+b") as file:
        file.seek(2 * 4096)
        file.write(b"\0" * (400 * 4096))
    with pytest.raises(StoreError, match="start it again"):
        get(store, b"00500")
    store.close()
    again = open_store(directory)
    assert again.run == 1
    assert (directory / "data.mdb.corrupt-1").exists()
    again.close()


def test_files_set_aside_are_numbered(directory: Path) -> None:
    for _ in range(2):
        filled(directory)
        write_text(directory / "data.mdb")
    open_store(directory).close()
    assert sorted(path.name for path in directory.glob("*.corrupt-*")) == [
        "data.mdb.corrupt-1",
        "data.mdb.corrupt-2",
    ]


def test_a_directory_deleted_under_a_running_engine_is_noticed(directory: Path) -> None:
    store = open_store(directory)
    store.check()
    (directory / "data.mdb").unlink()
    with pytest.raises(StoreError, match="RemoveIPC"):
        store.check()
    store.close()


def test_a_later_engine_follows_the_size_of_the_first(directory: Path, engine: StartEngine) -> None:
    """A smaller writable map would cut the file under the engine that has it open."""
    store = open_store(directory, writemap=True)
    with store.write() as txn:
        for number in range(40):
            txn.put(b"%d" % number, b"x" * (MIB // 16))
    other = engine("print(store.usage().limit)", size=MIB, wait=False)
    assert other.until_ready() == [str(store.usage().limit)]
    assert get(store, b"39") == b"x" * (MIB // 16)
    store.close()


def test_another_container_is_refused_while_engines_live(directory: Path) -> None:
    store = open_store(directory)
    (directory / "format").write_text(f"sessionha-store 1 {SIZE} 0 42\n")

    def child() -> None:
        with pytest.raises(StoreError, match="another container"):
            store.open()

    assert in_child(child) == 0
    store.close()

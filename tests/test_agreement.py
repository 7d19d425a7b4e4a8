"""Nodes, and engines of one node, that have different settings say so."""

from __future__ import annotations

from itertools import count

import pytest

from sessionha.agreement import (
    OF_A_CLUSTER,
    PATIENCE,
    Nodes,
    meet_siblings,
    other_keys,
    prints,
    shown,
)
from sessionha.identity import ViewID
from sessionha.keys import new_secret
from sessionha.settings import Settings
from sessionha.store.memory import Memory, MemoryStore
from sessionha.view import Member, View

NODES = "n1=http://127.0.0.1:7946,n2=http://127.0.0.1:7956"


def settings(**given: object) -> Settings:
    usual: dict[str, object] = {
        "node": "n1", "nodes": NODES, "secret": "insecure-loopback", "backups": 1,
    }  # fmt: skip
    return Settings.load({}, **(usual | given))


def view(number: int, **of_n2: object) -> View:
    members: dict[str, dict[str, object]] = {"n1": {}, "n2": of_n2}
    return View(
        ViewID(number, "n1"),
        tuple(
            Member(node, node, ViewID(1, "n1"), "", settings=shown(settings(**given), OF_A_CLUSTER))
            for node, given in members.items()
        ),
    )


def test_keys_compare_only_by_a_secret_that_both_had() -> None:
    """A view from before a start with another secret has fingerprints that were made with that."""
    ours, theirs, old, new = b"k" * 32, b"t" * 32, new_secret(), new_secret()
    made = prints(settings(secret=new), (ours,))
    assert not other_keys(made, prints(settings(secret=old), (ours,)))
    assert not other_keys(made, prints(settings(secret=f"{old},{new}"), (ours,)))
    assert other_keys(made, prints(settings(secret=f"{old},{new}"), (theirs,)))
    assert not other_keys(made, ())


def test_each_differing_setting_of_a_node_is_said_once_and_again_when_it_changed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    nodes = Nodes("n1", shown(settings(concurrency="serialize"), OF_A_CLUSTER))
    clock = count(0, 100)

    def said(seen: View) -> list[str]:
        caplog.clear()
        for now in next(clock), next(clock):
            nodes.look(seen, now)
        return caplog.messages

    merging = "n2 has `concurrency` = merge, n1 has serialize: give every node the same"
    small = "n2 has `session_bytes` = 1 KiB, n1 has 64 KiB: give every node the same"
    assert said(view(1)) == [merging]
    assert said(view(2, session_bytes="1KiB")) == [small]
    assert said(view(3, session_bytes="1KiB", concurrency="serialize")) == []
    assert said(view(4, concurrency="serialize")) == []
    assert said(view(5, concurrency="merge")) == [merging]


def test_times_addresses_and_a_node_that_says_nothing_are_no_difference(
    caplog: pytest.LogCaptureFixture,
) -> None:
    nodes = Nodes("n1", shown(settings(), OF_A_CLUSTER))
    nodes.look(view(1, idle_timeout="5min", heartbeat="0.1", url="http://other", zone="b"), 1)
    nodes.look(View(ViewID(2, "n1"), (Member("n2", "n2", ViewID(1, "n1"), ""),)), 2)
    assert caplog.messages == []


def test_settings_that_were_alike_may_differ_while_a_reload_goes_round(
    caplog: pytest.LogCaptureFixture,
) -> None:
    nodes = Nodes("n1", shown(settings(), OF_A_CLUSTER))
    nodes.look(view(1), 0)
    nodes.look(view(2, elements=9), 1)
    nodes.look(view(2, elements=9), 1 + PATIENCE / 2)
    nodes.change(shown(settings(elements=9), OF_A_CLUSTER))
    nodes.look(view(2, elements=9), 2 + PATIENCE)
    assert not nodes.waits
    assert caplog.messages == []
    nodes.look(view(3), 20)
    nodes.look(view(3), 20 + PATIENCE)
    assert caplog.messages == ["n2 has `elements` = 256, n1 has 9: give every node the same"]


def engines(number: int) -> tuple[Memory, list[MemoryStore]]:
    node = Memory()
    return node, [MemoryStore(node).open() for _ in range(number)]


def test_a_second_process_of_a_node_with_other_settings_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Workers that are alike, and what belongs to one process, are no difference."""
    _, (first, second, third) = engines(3)
    meet_siblings(first, settings(url="http://127.0.0.1:8001"))
    meet_siblings(second, settings(url="http://127.0.0.1:8001", session_requests=7))
    assert caplog.messages == []
    meet_siblings(third, settings(url="http://127.0.0.1:8002", admin="off"))
    (told,) = caplog.messages
    assert told.startswith("another process of node n1 (PID ")
    assert "`url`: http://127.0.0.1:8001 there, http://127.0.0.1:8002 here" in told
    assert "`admin`: 127.0.0.1:7947 there, off here" in told
    assert told.endswith(
        "give each node its own SESSIONHA_NODE, or each worker of a node the same settings"
    )


def test_two_nodes_in_one_directory_are_told(caplog: pytest.LogCaptureFixture) -> None:
    _, (first, second) = engines(2)
    meet_siblings(first, settings(store="/tmp/one"))
    meet_siblings(second, settings(store="/tmp/one", node="n2"))
    assert "`node`: n1 there, n2 here" in caplog.text
    assert "its own SESSIONHA_NODE and SESSIONHA_STORE" in caplog.text


def test_rows_of_dead_engines_and_of_earlier_runs_are_no_siblings(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also where another engine of this run holds the slot and has yet to leave its row."""
    node, before = engines(2)
    for store in before:
        meet_siblings(store, settings(reads="confirmed"))
    for store in before:
        store.close()
    after = [MemoryStore(node).open() for _ in before]
    for store in after:
        meet_siblings(store, settings())
    assert caplog.messages == []
    after[0].close()
    meet_siblings(after[1], settings(reads="confirmed"))
    assert caplog.messages == []


def test_no_password_is_left_in_the_store() -> None:
    _, (store,) = engines(1)
    secret = "kT9wZr4vQm2xLc7uNd5sJf8hYb3pGa6eVi0oRt1W"
    found = settings(
        nodes="redis://:hidden-word@10.0.0.9:6379/0", listen="127.0.0.1:7946", secret=secret
    )
    meet_siblings(store, found)
    with store.read() as reader:
        rows = b"".join(value for _, value in reader.scan(b""))
    assert b"10.0.0.9" in rows
    assert b"hidden-word" not in rows
    assert secret.encode() not in rows

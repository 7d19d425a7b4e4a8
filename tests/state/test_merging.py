"""Requests that change the same session at the same time: on one node, its engines, and several."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sessionha.errors import ElementNotReadable, OperationRefused
from sessionha.peer.messages import Batch, Behind, Push, SessionChange, encode
from sessionha.state.copies import PATCH_BYTES, Limits
from sessionha.state.node import Options
from sessionha.state.records import element_key, get_element, write_record
from sessionha.values.codec import decode
from sessionha.values.codec import encode as stored
from tests.simulation.scenes import GROUP, KEY, LIFETIMES, Scene, simulated
from tests.state.requests import begin, copies, counted, listen, request

TABLE = {f"k{number}": [number, "x" * 20] for number in range(10_000)}


PLACES = [("n1", 0), ("n1", 1), ("n3", 0)]
"""The node that the session began on, its other engine, and a node without a copy."""


def everywhere(
    test: Callable[[Scene, tuple[str, int]], Awaitable[None]],
) -> Callable[[tuple[str, int]], None]:
    def run(place: tuple[str, int]) -> None:
        @simulated(engines=2)
        async def scenario(scene: Scene) -> None:
            await test(scene, place)

        scenario()

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place[0]}-{place[1]}")(run)


@everywhere
async def test_different_paths_of_one_element_are_both_kept(
    scene: Scene, place: tuple[str, int]
) -> None:
    """System 2, 7: on one engine, on two of a node, and on two nodes."""
    await begin(scene, cart={"apples": 1, "pears": {"green": 1}}, log=["begun"], tags={"a"})
    one, other = await request(scene, "n1"), await request(scene, *place)
    one.session["cart"]["apples"] = 5
    one.session["log"].append("one")
    one.session["tags"].add("b")
    other.session["cart"]["pears"]["red"] = 2
    other.session["log"].append("other")
    other.session["tags"] -= {"a"}
    await asyncio.gather(one.commit(), other.commit())
    assert {"apples": 5, "pears": {"green": 1, "red": 2}} in copies(scene, "cart")
    for name, length in (("cart", 2), ("log", 3), ("tags", 1)):
        held = copies(scene, name)
        assert len(held) == 2
        assert held[0] == held[1]
        assert len(held[0]) == length
    assert counted(scene, "conflicts") == 0
    assert counted(scene, "merged") == 3


@everywhere
async def test_what_is_counted_at_the_same_time_adds_up(
    scene: Scene, place: tuple[str, int]
) -> None:
    """System 2 (i): counter increments from two engines and two nodes add up."""
    await begin(scene, user="ada")

    async def count(node: str, engine: int) -> None:
        for _ in range(10):
            visit = await request(scene, node, engine)
            visit.session.increment("hits")
            await asyncio.sleep(0.01)
            await visit.commit()

    await asyncio.gather(count("n1", 0), count(*place), count("n2", 1))
    assert copies(scene, "hits") == [30, 30]


@simulated()
async def test_a_number_that_is_assigned_to_a_counter_counts_as_the_difference(
    scene: Scene,
) -> None:
    await begin(scene, user="ada")
    for by in (5, 2.5):
        visit = await request(scene, "n1")
        assert visit.session.increment("hits", by) == visit.session["hits"]
        await visit.commit()
    one, other = await request(scene, "n1"), await request(scene, "n1")
    one.session["hits"] += 10
    other.session["hits"] = 0
    await one.commit()
    await other.commit()
    assert copies(scene, "hits") == [10, 10]


@simulated()
async def test_the_later_writer_of_a_value_wins_and_that_is_counted(scene: Scene) -> None:
    await begin(scene, step=1, name="ada")
    one, other = await request(scene, "n1"), await request(scene, "n1")
    one.session["step"] = 2
    other.session["step"] = 3
    other.session["name"] = "grace"
    await one.commit()
    await other.commit()
    assert (copies(scene, "step"), copies(scene, "name")) == ([3, 3], ["grace", "grace"])
    assert counted(scene, "conflicts") == 1
    last = await request(scene, "n2")
    last.session["step"] = 4
    await last.commit()
    assert counted(scene, "conflicts") == 1, "it had seen what it replaced"


@simulated()
async def test_a_request_that_commits_twice_replaces_nothing_that_came_in_between(
    scene: Scene,
) -> None:
    """As streams and background tasks do: its own picture of the element is old by then."""
    await begin(scene, cart={"apples": 1})
    long, short = await request(scene, "n1"), await request(scene, "n1")
    short.session["cart"]["pears"] = 2
    await short.commit()
    long.session["cart"]["apples"] = 7
    await long.commit()
    long.session["cart"]["plums"] = 3
    await long.commit()
    assert copies(scene, "cart")[0] == {"apples": 7, "pears": 2, "plums": 3}


@simulated()
async def test_an_element_that_two_requests_begin_has_what_both_put_in(scene: Scene) -> None:
    await begin(scene, user="ada")
    one, other = await request(scene, "n1"), await request(scene, "n1")
    one.session["cart"] = {"apples": 1}
    one.session.increment("hits", 2)
    other.session["cart"] = {"pears": 1}
    other.session.increment("hits", 3)
    await one.commit()
    await other.commit()
    assert copies(scene, "cart")[0] == {"apples": 1, "pears": 1}
    assert copies(scene, "hits")[0] == 5


@simulated()
async def test_a_renewal_merges_like_any_other_change(scene: Scene) -> None:
    await begin(scene, cart={"apples": 1})
    renewing, other = await request(scene, "n1"), await request(scene, "n1")
    other.session["cart"]["pears"] = 2
    await other.commit()
    renewing.session["cart"]["apples"] = 2
    renewing.session.renew_id()
    prepared = renewing.session.prepare(lambda: ("new", b"\x02" * 16), LIFETIMES)
    await scene.at("n1").commit(Batch(GROUP, prepared.changes, renewing.read), fresh=False)
    loaded = scene.at("n1").load(GROUP, b"\x02" * 16)
    assert loaded is not None
    assert decode(loaded.elements["cart"][1]) == {"apples": 2, "pears": 2}


# --- what travels --------------------------------------------------------------------------------


@simulated(options=Options(limits=Limits(session_bytes=1 << 20)))
async def test_of_a_large_element_only_the_operation_travels(scene: Scene) -> None:
    """System 2 (b): one entry of a 10,000-entry dict sends the path and the value."""
    await begin(scene, table=TABLE)
    heard = listen(scene, Push)
    visit = await request(scene, "n1")
    visit.session["table"]["k5000"] = "new"
    await visit.commit()
    [(target, push)] = heard
    assert target == "n2"
    assert len(encode(push)) < 300
    assert [(patch.name, patch.manager) for patch in push.patches] == [("table", "map")]
    assert decode(push.patches[0].operation)[0][:3] == ["set", ["k5000"], "new"]
    assert push.elements == ()
    expected = {**TABLE, "k5000": "new"}
    assert copies(scene, "table") == [expected, expected]


@simulated()
async def test_a_copy_that_cannot_do_an_operation_gets_the_value(scene: Scene) -> None:
    """As one of a version that does something else: both copies are equal in the end."""
    text = "x" * PATCH_BYTES
    await begin(scene, note={"text": text, "n": 1})
    with scene.at("n2").node.store.write() as writer:
        element = get_element(writer, GROUP, KEY, "note")
        assert element is not None
        element.value = stored({"text": text, "n": 1, "odd": 1}, "note")
        writer.put(element_key(GROUP, KEY, "note"), write_record(element))
    visit = await request(scene, "n1")
    visit.session["note"]["n"] = 2
    answers = listen(scene, Behind)
    receipt = await visit.commit()
    assert len(answers) == 1
    assert receipt is not None
    assert receipt.copies == 1
    assert copies(scene, "note") == [{"text": text, "n": 2}] * 2


@simulated()
async def test_a_batch_that_changes_an_element_twice_leaves_equal_copies(scene: Scene) -> None:
    """As doors around each other may, for the same session: its last value travels."""
    await begin(scene, log=["x" * PATCH_BYTES])
    one, other = await request(scene, "n1"), await request(scene, "n1")
    one.session["log"].append("one")
    other.session["log"].append("other")
    changes = [r.session.prepare(lambda: ("id", KEY), LIFETIMES).changes[0] for r in (one, other)]
    await scene.at("n1").commit(Batch(GROUP, tuple(changes), one.read), fresh=False)
    held = copies(scene, "log")
    assert held[0] == held[1]
    assert held[0][1:] == ["one", "other"]


@simulated()
async def test_elements_of_an_unknown_manager_travel_and_spoil_nothing(scene: Scene) -> None:
    """System 2: unknown managers travel opaque, and are quarantined alone."""
    raw = stored({"any": "thing"}, "odd")
    change = SessionChange(
        KEY, create=LIFETIMES, puts=(("odd", "later", raw), ("n", "value", b"\1"))
    )
    receipt = await scene.at("n1").commit(Batch(GROUP, (change,)), fresh=True)
    scene.cookie = receipt.position
    visit = await request(scene, "n3")
    with pytest.raises(ElementNotReadable, match="data manager `later` is not registered here"):
        visit.session["odd"]
    visit.session["n"] += 1
    await visit.commit()
    assert copies(scene, "n") == [2, 2]
    assert copies(scene, "odd") == [{"any": "thing"}] * 2
    operation = SessionChange(KEY, edits=(("odd", "later", stored([], "o"), None),))
    with pytest.raises(OperationRefused, match="`later`"):
        await scene.at("n3").commit(Batch(GROUP, (operation,)), fresh=False)


@simulated()
async def test_an_operation_alone_is_done_to_what_is_there_or_refused(scene: Scene) -> None:
    """As the data API sends it: it has read nothing."""
    await begin(scene, cart={"apples": 1})

    async def operate(*steps: list[Any]) -> None:
        edit = "cart", "map", stored([*steps], "cart", 64), None
        await scene.at("n3").commit(Batch(GROUP, (SessionChange(KEY, edits=(edit,)),)), fresh=False)

    await operate(["increment", ["apples"], 2], ["set", ["pears"], 1])
    with pytest.raises(OperationRefused, match="there is no list"):
        await operate(["set", ["plums"], 1], ["append", ["apples"], [1]])
    assert copies(scene, "cart")[0] == {"apples": 3, "pears": 1}

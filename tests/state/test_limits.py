"""Every limit on what a client can make a node hold ends in an error that names its setting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sessionha import SessionMiddleware
from sessionha.errors import (
    CommitUnconfirmed,
    ElementNotEncodable,
    SessionHAError,
    SessionTooLarge,
    SessionUnavailable,
    StoreFull,
)
from sessionha.peer.channel import DEFAULT_LIMITS
from sessionha.peer.messages import Batch, Push, SessionChange, encode
from sessionha.session.session import NAME_BYTES
from sessionha.state import copies
from sessionha.state.copies import GROUP_BYTES, Limits
from sessionha.state.manager import GROUP_SESSIONS
from sessionha.state.node import Options
from sessionha.state.replication import REFUSAL
from tests.simulation.scenes import GROUP, KEY, LIFETIMES, Scene, simulated
from tests.web.browser import KEY as SECRET_KEY
from tests.web.browser import Browser, reply

MIB = 2**20


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


# --- what one session may hold -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"a": "x" * 2_000}, SessionTooLarge, "`session_bytes`"),
        ({str(n): n for n in range(5)}, SessionTooLarge, "`elements`"),
        ({"a": nested(4)}, ElementNotEncodable, "`depth`"),
        ({"n" * (NAME_BYTES + 1): 1}, ElementNotEncodable, f"at most {NAME_BYTES} bytes"),
        ({"ü" * (NAME_BYTES // 2 + 1): 1}, ElementNotEncodable, f"at most {NAME_BYTES} bytes"),
    ],
)
async def test_a_session_beyond_a_limit_is_refused_and_stays_as_it_was(
    change: dict[str, Any], error: type[SessionHAError], named: str
) -> None:
    """Contract, section 8; system 1: through the middleware, so as an application meets it."""

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        if scope["path"] == "/change":
            scope["session"].update(change)
        elif scope["path"] == "/begin":
            scope["session"]["a"] = "small"
        await reply(send, dict(scope["session"]))

    app_with_sessions = SessionMiddleware(
        app, secret_key=SECRET_KEY, store="memory", session_bytes=1024, elements=4, depth=3
    )
    browser = Browser(app_with_sessions)
    await browser.get("/begin")
    with pytest.raises(error) as refused:
        await browser.get("/change")
    assert named in str(refused.value)
    assert (await browser.get()).json == {"a": "small"}


async def test_a_value_as_deep_as_allowed_and_a_name_as_long_as_allowed_are_stored() -> None:
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        session = scope["session"]
        session["n" * NAME_BYTES] = nested(3)
        await reply(send)

    browser = Browser(SessionMiddleware(app, secret_key=SECRET_KEY, store="memory", depth=3))
    assert (await browser.get()).status == 200


# --- what one client may hold --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("session_bytes", "sessions"),
    [(64 * 1024, GROUP_SESSIONS), (512 * 1024, 6), (2 * MIB, 1)],
)
def test_a_client_gets_another_group_before_one_is_too_large_for_a_frame(
    session_bytes: int, sessions: int
) -> None:
    """A group travels whole, in one message."""
    options = Options(limits=Limits(session_bytes=session_bytes))

    @simulated(options=options)
    async def story(scene: Scene) -> None:
        state = scene.at("n1")
        for number in range(sessions):
            assert number == 0 or state.has_room(GROUP, None)
            change = SessionChange(bytes([number] * 16), create=LIFETIMES)
            await state.commit(Batch(GROUP, (change,)), fresh=number == 0)
        assert not state.has_room(GROUP, None)

    story()
    assert sessions * session_bytes <= GROUP_BYTES


@simulated(options=Options(limits=Limits(session_bytes=2 * MIB)))
async def test_the_largest_group_fits_into_a_frame(scene: Scene) -> None:
    """With as many elements, as long names and as many tombstones as there can be."""
    elements = Limits().elements
    names = [f"{number:04}" + "n" * (NAME_BYTES - 4) for number in range(elements)]
    size = 2 * MIB // elements - NAME_BYTES
    gone = tuple((f"gone{n}", "value", b"x") for n in range(copies.ELEMENT_TOMBSTONES))
    state = scene.at("n1")
    puts = tuple((name, "value", b"x" * size) for name in names)
    change = SessionChange(KEY, create=LIFETIMES, puts=gone)
    await state.commit(Batch(GROUP, (change,)), fresh=True)
    away = tuple(name for name, _, _ in gone)
    await state.commit(Batch(GROUP, (SessionChange(KEY, deletes=away, puts=puts),)), fresh=False)
    found: list[int] = []

    def weigh(_source: str, _target: str, message: object) -> bool:
        if isinstance(message, Push):
            found.append(len(encode(message)))
        return False

    scene.world.held_back = weigh
    await scene.crash("n2")
    await state.commit(
        Batch(GROUP, (SessionChange(KEY, puts=(("0000", "value", b""),), deletes=(names[0],)),)),
        fresh=False,
    )
    assert 2 * MIB < max(found) <= DEFAULT_LIMITS.frame_bytes


# --- what a node may hold ------------------------------------------------------------------------


def fill(scene: Scene, node: str, share: float) -> None:
    memory = scene.world.hosts[node].memory
    memory.size = int(memory.used / share)


@simulated(nodes=1, options=Options(backups=0))
async def test_a_full_store_names_its_setting(scene: Scene) -> None:
    await scene.create("n1", a="1" * 1_000)
    fill(scene, "n1", 0.85)
    with pytest.raises(StoreFull, match="`store_size`"):
        await scene.write("n1", b="2")
    assert await scene.see("n1") == {"a": "1" * 1_000}


@simulated(nodes=4)
async def test_a_full_backup_is_not_asked_again_for_a_while(scene: Scene) -> None:
    """It says so, another one is chosen, and new sessions go elsewhere until it may have room."""
    await scene.create("n1", a="1" * 1_000)
    full = scene.world.hosts["n1"].record(GROUP).holders[1]  # type: ignore[union-attr]
    fill(scene, full, 0.97)
    receipt = await scene.put("n1", b="2")
    assert receipt.copies == 1
    assert full not in receipt.holders
    node = scene.at("n1").node
    assert [*node.refusing] == [full]
    assert node.refusing[full] - node.clock.now() > REFUSAL - 1_000
    assert set(scene.copies()) >= {*receipt.holders}


@simulated(nodes=2)
async def test_with_every_backup_full_there_are_fewer_copies_and_that_is_told(
    scene: Scene,
) -> None:
    """G1: in the receipt, and in a metric."""
    await scene.create("n1", a="1" * 1_000)
    counters = scene.at("n1").node.counters
    assert counters.fewer_copies == 0
    fill(scene, "n2", 0.97)
    assert (await scene.put("n1", b="2")).copies == 0
    assert (await scene.put("n1", c="3")).copies == 0
    assert (counters.fewer_copies, counters.below_min_copies) == (2, 0)


# --- how few copies there may be -----------------------------------------------------------------

LEAST: Callable[..., Any] = simulated(nodes=2, options=Options(min_copies=1))


@LEAST
async def test_too_few_copies_before_a_change_leave_no_trace_of_it(scene: Scene) -> None:
    """G1: 503 with the outcome *fail*, and a metric; `min_copies` is named."""
    await scene.create("n1", a="1")
    await scene.crash("n2")
    before = scene.world.hosts["n1"].content(GROUP)
    with pytest.raises(SessionUnavailable, match=r"`min_copies` = 1 .* nothing was changed") as no:
        await scene.write("n1", a="2")
    assert not isinstance(no.value, CommitUnconfirmed)
    assert scene.world.hosts["n1"].content(GROUP) == before
    counters = scene.at("n1").node.counters
    assert (counters.below_min_copies, counters.unconfirmed) == (1, 0)
    assert await scene.see("n1") == {"a": "1"}, "who only reads is served"


@LEAST
async def test_copies_that_are_lost_while_a_change_is_under_way_make_it_unknown(
    scene: Scene,
) -> None:
    """G1: it was written by then; `min_copies` is named."""
    await scene.create("n1", a="1" * 1_000)
    fill(scene, "n2", 0.97)
    with pytest.raises(CommitUnconfirmed, match="below `min_copies` = 1; it may last"):
        await scene.write("n1", b="2")
    assert scene.at("n1").node.counters.unconfirmed == 1

"""Secondary sessions: cookies of their own, one batch with the main one, lives of their own."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sessionha.errors import (
    CommitUnconfirmed,
    InvalidSettings,
    SessionBusy,
    SessionRevoked,
    SessionUnavailable,
)
from sessionha.peer.messages import Batch
from sessionha.session.company import Company
from sessionha.session.cookies import SECONDARIES, CookieAttributes, SessionCookies
from sessionha.session.session import Session
from sessionha.session.terms import Terms
from sessionha.session.visit import Visit
from sessionha.state.base import Loaded
from sessionha.state.manager import GROUP_ROWS, GROUP_SESSIONS
from sessionha.state.records import read_session, rows
from sessionha.store.memory import MemoryReader
from tests.session import places
from tests.session.fakes import FakeEngine
from tests.session.places import COOKIES, MINUTE, WALL, Alone, Browser, in_world, place, terms
from tests.simulation.world import World

NAMES = ("cart", "wizard")


@pytest.fixture
def alone() -> Alone:
    return places.alone()


@pytest.fixture
def browser() -> Browser:
    return Browser(terms())


async def put(browser: Browser, at: Alone, *names: str, **values: object) -> None:
    """A request that writes the same to the main session ("") and to secondary ones."""

    def use(visit: Visit) -> None:
        for name in names:
            (visit.session.secondary(name) if name else visit.session).update(values)

    await browser.visit(at.place, use)


async def contents(browser: Browser, at: Alone, *names: str) -> dict[str, dict[str, object]]:
    """What a request finds in them."""
    found: dict[str, dict[str, object]] = {}

    def use(visit: Visit) -> None:
        for name in names:
            found[name] = dict(visit.session.secondary(name) if name else visit.session)

    await browser.visit(at.place, use)
    return found


# --- what they are ---


async def test_each_has_an_id_a_cookie_and_content_of_its_own(
    alone: Alone, browser: Browser
) -> None:
    await put(browser, alone, "", "cart", "wizard", n=1)
    await put(browser, alone, "cart", n=2)
    assert set(browser.jar) == {"session", "session-cart", "session-wizard"}
    tickets = [browser.ticket(WALL, name) for name in ("", *NAMES)]
    assert len({ticket.session_id for ticket in tickets if ticket}) == 3
    assert len({ticket.group for ticket in tickets if ticket}) == 1
    expected = {"": {"n": 1}, "cart": {"n": 2}, "wizard": {"n": 1}}
    assert await contents(browser, alone, "", *NAMES) == expected
    assert not alone.place.events


async def test_a_name_means_one_session_in_a_request(alone: Alone, browser: Browser) -> None:
    def use(visit: Visit) -> None:
        cart = visit.session.secondary("cart")
        assert visit.session.secondary("cart") is cart
        assert cart.secondary("cart") is cart, "whichever of the client's sessions is asked"
        assert cart.new

    await browser.visit(alone.place, use)
    assert browser.jar == {}, "nothing was put in"


async def test_a_request_that_uses_none_of_them_sets_no_cookie_and_does_not_vary(
    alone: Alone, browser: Browser
) -> None:
    await put(browser, alone, "", "cart", n=1)
    before = dict(browser.jar)

    def check(visit: Visit) -> None:
        assert not visit.vary
        visit.session.secondary("cart").get("n")
        assert visit.vary

    await browser.visit(alone.place, check)
    assert browser.jar == before


@pytest.mark.parametrize("name", ["", "a b", "a;b", "ä", "x" * 33, "a.b"])
async def test_wrong_names_are_refused(alone: Alone, browser: Browser, name: str) -> None:
    def use(visit: Visit) -> None:
        with pytest.raises(ValueError, match="cannot name a session"):
            visit.session.secondary(name)

    await browser.visit(alone.place, use)


async def test_a_request_has_so_many_of_them(alone: Alone, browser: Browser) -> None:
    def use(visit: Visit) -> None:
        for number in range(SECONDARIES):
            visit.session.secondary(f"s{number}")["n"] = number
        with pytest.raises(ValueError, match="'one-more' would be one more than the 8"):
            visit.session.secondary("one-more")

    await browser.visit(alone.place, use)
    await browser.visit(alone.place, use)
    assert len(browser.jar) == SECONDARIES


def test_a_session_without_a_request_has_none() -> None:
    with pytest.raises(LookupError):
        Session().secondary("cart")


async def test_who_asks_for_a_name_while_another_thread_does_gets_the_same_session(
    alone: Alone, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    others: list[Session] = []

    def use(visit: Visit) -> None:
        def meanwhile(company: Company) -> bool:
            monkeypatch.undo()
            others.append(visit.session.secondary("cart"))
            return True

        monkeypatch.setattr(Company, "has_room", meanwhile)
        assert visit.session.secondary("cart") is others[0]

    await browser.visit(alone.place, use)


async def test_when_the_request_is_over_nobody_can_ask_for_one(
    alone: Alone, browser: Browser
) -> None:
    kept: list[Session] = []
    await browser.visit(alone.place, lambda visit: kept.append(visit.session))
    with pytest.raises(LookupError, match="the request is over"):
        kept[0].secondary("cart")


# --- one batch ---


async def test_what_a_request_changes_in_several_is_one_version(
    alone: Alone, browser: Browser
) -> None:
    """G5."""
    commits = alone.place.state.node.counters

    async def use(visit: Visit) -> None:
        sessions = [visit.session, *map(visit.session.secondary, NAMES)]
        for session in sessions:
            session["n"] = 1
        await visit.respond()
        assert len({session.receipt for session in sessions}) == 1
        assert commits.commits == 1

    await browser.visit(alone.place, use)


async def test_a_commit_of_one_of_them_takes_the_others_along(
    alone: Alone, browser: Browser
) -> None:
    async def use(visit: Visit) -> None:
        cart = visit.session.secondary("cart")
        visit.session["n"] = cart["n"] = 1
        receipt = await cart.commit()
        assert receipt is not None
        assert visit.session.receipt == receipt
        assert await visit.session.commit() is None

    await browser.visit(alone.place, use)


async def test_a_change_of_a_living_session_is_stored_beside_one_that_was_ended() -> None:
    """G6, and an answer of 200 lasts: it is as if the other had been ended right after."""
    engine, browser = FakeEngine(), Browser(terms())
    at = Alone(engine.clock, engine)  # type: ignore[arg-type]
    await put(browser, at, "", "cart", n=1)
    (group,) = engine.state.groups.values()

    def use(visit: Visit) -> None:
        visit.session["n"] = visit.session.secondary("cart")["n"] = 2
        gone = visit.session.known
        assert gone is not None
        del group.sessions[gone.key]

    await browser.visit(at.place, use)
    assert engine.counts == ["session_revoked"]
    assert await contents(browser, at, "", "cart") == {"": {}, "cart": {"n": 2}}


@pytest.mark.parametrize("asks", ["", "cart"])
async def test_a_commit_tells_who_asks_that_its_session_was_ended(alone: Alone, asks: str) -> None:
    """The main session goes on; the secondary one was ended meanwhile."""
    browser = Browser(terms())
    await put(browser, alone, "", "cart", n=1)
    other = Browser(browser.terms, dict(browser.jar))

    async def use(visit: Visit) -> None:
        visit.session["n"] = 2
        cart = visit.session.secondary("cart")
        cart["n"] = 2
        await other.visit(alone.place, lambda visit: visit.session.secondary("cart").destroy())
        if asks:
            with pytest.raises(SessionRevoked):
                await cart.commit()
        else:
            assert await visit.session.commit() is not None
            cart["n"] = 3
            with pytest.raises(SessionRevoked):
                await cart.commit()

    await browser.visit(alone.place, use)
    assert alone.place.events["session_revoked"] == 1
    assert await contents(browser, alone, "", "cart") == {"": {"n": 2}, "cart": {}}


async def test_who_is_told_that_the_session_was_ended_may_begin_anew(
    alone: Alone, browser: Browser
) -> None:
    await put(browser, alone, "", n=1)
    other = Browser(browser.terms, dict(browser.jar))

    async def use(visit: Visit) -> None:
        visit.session["n"] = 2
        await other.visit(alone.place, lambda visit: visit.session.destroy())
        with pytest.raises(SessionRevoked):
            await visit.session.commit()
        visit.session.destroy()
        visit.session["n"] = 3

    await browser.visit(alone.place, use)
    assert (await contents(browser, alone, ""))[""] == {"n": 3}


@pytest.mark.parametrize("local", [True, False], ids=["at once", "acquired"])
def test_nobody_sees_one_session_after_and_another_before_a_commit(local: bool) -> None:
    """System 4, 4: a commit between the two readings makes both be read again."""
    both = ("", "cart")

    async def scenario(world: World) -> None:
        here, sibling = place(world, "n1"), place(world, "n1", engine=1)
        browser, other = Browser(terms()), Browser(terms())
        at = Alone(places.Clock(), here)
        await put(browser, at, *both, n=0)
        state = here.state
        state.local = local
        load = state.load
        for number in range(1, 4):
            other.jar = dict(browser.jar)
            interfering = True

            def late(*asked: object, **options: object) -> object:
                nonlocal interfering
                found = load(*asked, **options)  # type: ignore[arg-type]
                if interfering:
                    interfering = False
                    run_at_once(put(other, Alone(at.clock, sibling), *both, n=number))  # noqa: B023
                return found

            state.load = late  # type: ignore[method-assign, assignment]
            seen = await contents(browser, at, *both)
            state.load = load  # type: ignore[method-assign]
            assert seen[""] == seen["cart"] == {"n": number}

    def run_at_once(work: object) -> None:
        with pytest.raises(StopIteration):
            work.send(None)  # type: ignore[attr-defined]

    in_world(scenario, nodes=1, backups=0, engines=2)


async def test_confirmed_reads_of_several_sessions_show_one_moment(
    alone: Alone, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G5: while the first is being confirmed, a commit changes it and ends the second."""
    state = alone.place.state
    await put(browser, alone, "", "cart", n=1)
    other = Browser(browser.terms, dict(browser.jar))
    orders = [True]
    find = state.find

    def order(visit: Visit) -> None:
        visit.session["n"] = "ordered"
        visit.session.secondary("cart").destroy()

    async def confirming(*about: Any) -> Loaded | None:
        found = await find(*about)
        if orders:
            orders.clear()
            with monkeypatch.context() as patch:
                patch.setattr(state, "local", True)
                await other.visit(alone.place, order)
        return found

    monkeypatch.setattr(state, "local", False)
    monkeypatch.setattr(state, "find", confirming)
    assert await contents(browser, alone, "", "cart") == {"": {"n": "ordered"}, "cart": {}}


# --- lives of their own ---


async def test_lifetimes_of_its_own(alone: Alone) -> None:
    browser = Browser(terms(idle=30 * MINUTE))

    def use(visit: Visit) -> None:
        visit.session["n"] = 1
        wizard = visit.session.secondary("wizard", idle_timeout=60, lifetime=90)
        wizard["n"] = 1
        visit.session.secondary("cart", idle_timeout=3600, lifetime=math.inf)["n"] = 1

    await browser.visit(alone.place, use)
    ends = {name: browser.ticket(WALL, name).deadline - WALL for name in ("", *NAMES)}  # type: ignore[union-attr]
    assert ends == {"": 1800, "wizard": 60, "cart": 3600}
    alone.clock.seconds += 50
    assert (await contents(browser, alone, "wizard"))["wizard"] == {"n": 1}
    alone.clock.seconds += 45
    expected = {"": {"n": 1}, "wizard": {}, "cart": {"n": 1}}
    assert await contents(browser, alone, "", *NAMES) == expected


async def test_browsers_keep_its_cookie_as_long_as_it_may_be_idle() -> None:
    engine = FakeEngine()
    attributes = CookieAttributes("session")
    door = Terms(COOKIES, attributes, attributes, max_age=1800)
    visit = Visit(engine, door, [])
    visit.arrive()
    visit.session["n"] = 1
    visit.session.secondary("cart")["n"] = 1
    visit.session.secondary("wizard", idle_timeout=60)["n"] = 1
    await visit.respond()
    ages = [header.split("; ")[2] for _, header in visit.headers()]
    assert ages == ["Max-Age=1800", "Max-Age=1800", "Max-Age=60"]


@pytest.mark.parametrize("times", [{"idle_timeout": 0}, {"lifetime": -1}, {"idle_timeout": 1e12}])
async def test_wrong_times_are_refused(
    alone: Alone, browser: Browser, times: dict[str, float]
) -> None:
    def use(visit: Visit) -> None:
        with pytest.raises(ValueError, match=next(iter(times))):
            visit.session.secondary("cart", **times)

    await browser.visit(alone.place, use)


async def test_destroying_one_leaves_the_others(alone: Alone, browser: Browser) -> None:
    """System 4, 5."""
    await put(browser, alone, "", *NAMES, n=1)
    await browser.visit(alone.place, lambda visit: visit.session.destroy())
    assert set(browser.jar) == {"session-cart", "session-wizard"}
    await browser.visit(alone.place, lambda visit: visit.session.secondary("cart").destroy())
    assert set(browser.jar) == {"session-wizard"}
    expected = {"": {}, "cart": {}, "wizard": {"n": 1}}
    assert await contents(browser, alone, "", *NAMES) == expected


async def test_a_cascade_destroys_all(alone: Alone, browser: Browser) -> None:
    await put(browser, alone, "", *NAMES, n=1)
    old = dict(browser.jar)
    await browser.visit(
        alone.place, lambda visit: visit.session.secondary("cart").destroy(cascade=True)
    )
    assert browser.jar == {}
    thief = Browser(browser.terms, old)
    assert await contents(thief, alone, "", *NAMES) == {"": {}, "cart": {}, "wizard": {}}


@pytest.mark.parametrize("cascade", [False, True])
async def test_a_log_in_renews_one_or_all(alone: Alone, browser: Browser, cascade: bool) -> None:
    """I16: the old IDs are valid nowhere."""
    await put(browser, alone, "", *NAMES, n=1)
    old = dict(browser.jar)
    await browser.visit(alone.place, lambda visit: visit.session.renew_id(cascade=cascade))
    renewed = {name for name, value in browser.jar.items() if value != old[name]}
    assert renewed == (set(old) if cascade else {"session"})
    assert all((await contents(browser, alone, "", *NAMES)).values())
    thief = Browser(browser.terms, old)
    stolen = await contents(thief, alone, "", *NAMES)
    assert any(stolen.values()) is not cascade


async def test_the_main_session_begins_again_beside_those_that_outlived_it(
    alone: Alone, browser: Browser
) -> None:
    await put(browser, alone, "", "cart", n=1)
    await browser.visit(alone.place, lambda visit: visit.session.destroy())
    await put(browser, alone, "", n=2)
    main, cart = browser.ticket(WALL), browser.ticket(WALL, "cart")
    assert main is not None
    assert cart is not None
    assert main.group == cart.group


# --- cookies ---


async def test_a_cookie_of_one_name_is_not_valid_under_another(
    alone: Alone, browser: Browser
) -> None:
    await put(browser, alone, "", *NAMES, n=1)
    jar = browser.jar
    jar["session-cart"], jar["session"] = jar["session-wizard"], jar["session-cart"]
    assert await contents(browser, alone, "", "cart") == {"": {}, "cart": {}}
    assert alone.place.events == {"session_cookie_refused": 2}
    await contents(browser, alone, "wizard")
    assert alone.place.events == {"session_cookie_refused": 4}, "told each time"


async def test_one_valid_cookie_of_several_with_a_name_counts(
    alone: Alone, browser: Browser
) -> None:
    await put(browser, alone, "cart", n=1)
    good = browser.jar["session-cart"]
    forged = good[:-2] + "AA"
    for header, expected in (
        (f"session-cart={forged}; session-cart={good}", {"n": 1}),
        (f"session-cart={good}; session-cart={good}", {"n": 1}),
        (f"session-cart={forged}", {}),
    ):
        visit = Visit(alone.place, browser.terms, [header])
        assert visit.arrive()
        assert dict(visit.session.secondary("cart")) == expected


async def test_others_cookies_with_such_names_cost_nothing(alone: Alone, browser: Browser) -> None:
    await put(browser, alone, "", n=1)
    browser.jar |= {"session-id": "133-7", "session-token": "x" * 300}
    assert await contents(browser, alone, "", "id") == {"": {"n": 1}, "id": {}}
    assert not alone.place.events


async def test_a_remembered_header_knows_all_deadlines(alone: Alone) -> None:
    """The first ticket that is over makes the header be read again."""
    browser = Browser(terms(idle=30 * MINUTE))

    def use(visit: Visit) -> None:
        visit.session["n"] = 1
        visit.session.secondary("wizard", idle_timeout=60)["n"] = 1

    await browser.visit(alone.place, use)
    for _ in range(2):
        assert (await contents(browser, alone, "wizard"))["wizard"] == {"n": 1}
    assert browser.terms.seen
    alone.clock.seconds += 63
    expected = {"": {"n": 1}, "wizard": {}}
    assert await contents(browser, alone, "", "wizard") == expected
    assert alone.place.events == {"session_cookie_refused": 1}


async def test_more_cookies_than_count_are_not_looked_at(alone: Alone, browser: Browser) -> None:
    names = [f"s{number}" for number in range(SECONDARIES)]
    await put(browser, alone, *names, n=1)
    first = browser.jar["session-s0"]
    browser.jar |= {f"session-x{number}": first for number in range(20)}
    assert await contents(browser, alone, *names) == {name: {"n": 1} for name in names}
    assert not alone.place.events


def test_a_cookie_whose_name_nobody_could_set_is_not_looked_at() -> None:
    attributes = CookieAttributes("s" * 120)
    door = Terms(SessionCookies([b"k" * 32], attributes.name), attributes, attributes)
    value = door.cookies.write("x" * 56, 1)
    visit = Visit(FakeEngine(), door, [f"{attributes.name}-too-long={value}"])
    assert visit.arrive()
    with pytest.raises(InvalidSettings, match="cannot be a cookie's name"):
        visit.session.secondary("too-long")


def test_the_prefix_of_the_main_cookie_stays() -> None:
    attributes = CookieAttributes("__Host-session", secure=True)
    door = Terms(SessionCookies([b"k" * 32], "__Host-session"), attributes, attributes)
    made = door.secondary("cart").attributes.set("x", None)
    assert made.startswith("__Host-session-cart=x; path=/; ")
    assert "secure" in made


# --- groups of their own ---


async def test_one_of_another_group_works_and_is_committed_apart(alone: Alone) -> None:
    """Architecture, section 5: the session ID's group decides."""
    browser, other = Browser(terms()), Browser(terms())
    await put(browser, alone, "", n=1)
    await put(other, alone, "cart", n=1)
    browser.jar |= other.jar

    async def use(visit: Visit) -> None:
        visit.session["n"] = visit.session.secondary("cart")["n"] = 2
        visit.session.secondary("wizard")["n"] = 2
        before = alone.place.state.node.counters.commits
        await visit.respond()
        assert alone.place.state.node.counters.commits == before + 2

    await browser.visit(alone.place, use)
    assert all((await contents(browser, alone, "", *NAMES)).values())
    main, wizard = browser.ticket(WALL), browser.ticket(WALL, "wizard")
    assert main is not None
    assert wizard is not None
    assert main.group == wizard.group
    await browser.visit(alone.place, lambda visit: visit.session.destroy(cascade=True))
    assert browser.jar == {}


async def test_what_was_committed_first_lasts_when_the_second_group_cannot_be() -> None:
    """The outcome is unknown: the first was renewed, and its new cookie goes with the refusal."""
    engine, browser, other = FakeEngine(("n1", "n2")), Browser(terms()), Browser(terms())
    at = Alone(engine.clock, engine)  # type: ignore[arg-type]
    await put(browser, at, "", n=1)
    await put(other, at, "cart", n=1)
    browser.jar["session-cart"] = other.jar["session-cart"]

    def fail_next(_: Batch) -> None:
        engine.state.before_commit = fail
        engine.state.failure = None

    def fail(_: Batch) -> None:
        engine.state.failure = SessionUnavailable("nobody answered")

    async def use(visit: Visit) -> None:
        visit.session.renew_id()
        visit.session["n"] = visit.session.secondary("cart")["n"] = 2
        engine.state.before_commit = fail_next
        with pytest.raises(CommitUnconfirmed, match="first part of the change lasts") as caught:
            await visit.respond()
        assert caught.value.unknown
        assert not caught.value.elsewhere
        told = [value.partition("=")[0] for name, value in visit.remains() if name == "set-cookie"]
        assert told == ["session", "hsr"]
        for name, header in visit.remains():
            if name == "set-cookie":
                browser.keep(header)

    await browser.visit(at.place, use)
    engine.state.before_commit = engine.state.failure = None
    assert await contents(browser, at, "", "cart") == {"": {"n": 2}, "cart": {"n": 1}}


def test_every_group_is_acquired_where_the_request_arrives() -> None:
    async def scenario(world: World) -> None:
        clock = places.Clock()
        browser, other = Browser(terms()), Browser(terms())
        n1, n2, n3 = (Alone(clock, place(world, name)) for name in ("n1", "n2", "n3"))
        await put(browser, n1, "", "wizard", n=1)
        await put(other, n2, "cart", n=1)
        browser.jar["session-cart"] = other.jar["session-cart"]
        seen = await contents(browser, n3, "", *NAMES)
        assert seen == {"": {"n": 1}, "cart": {"n": 1}, "wizard": {"n": 1}}
        assert n3.place.state.node.counters.handovers + n3.place.state.node.counters.promotions > 0
        assert n3.place.ways == {"lb_ignored": 1}

    in_world(scenario)


async def test_an_unavailable_group_concerns_its_own_sessions_only() -> None:
    engine, browser, other = FakeEngine(("n1", "n2")), Browser(terms()), Browser(terms())
    at = Alone(engine.clock, engine)  # type: ignore[arg-type]
    await put(browser, at, "", n=1)
    here = set(engine.state.groups)
    await put(other, at, "cart", n=1)
    browser.jar["session-cart"] = other.jar["session-cart"]
    engine.state.away.update(set(engine.state.groups) - here)
    engine.state.failure = SessionUnavailable("nobody answered")

    def use(visit: Visit) -> None:
        assert visit.session["n"] == 1
        cart = visit.session.secondary("cart")
        for refused in (cart.__len__, lambda: visit.session.destroy(cascade=True)):
            with pytest.raises(SessionUnavailable):
                refused()
        assert visit.session["n"] == 1, "nothing was destroyed"

    await browser.visit(at.place, use)


async def test_where_the_main_session_is_unavailable_no_other_begins() -> None:
    """It would begin in a group of its own, away from the others for ever."""
    engine, browser = FakeEngine(("n1", "n2")), Browser(terms())
    at = Alone(engine.clock, engine)  # type: ignore[arg-type]
    await put(browser, at, "", n=1)
    engine.state.away.update(engine.state.groups)
    engine.state.failure = SessionUnavailable("nobody answered")

    def use(visit: Visit) -> None:
        with pytest.raises(SessionUnavailable):
            visit.session.secondary("cart")["n"] = 1

    await browser.visit(at.place, use)


@pytest.mark.parametrize("dropped", ["session", "session-cart"])
def test_a_client_that_drops_a_cookie_does_not_make_a_group_grow(dropped: str) -> None:
    async def scenario(world: World) -> None:
        browser = Browser(terms())
        at = Alone(places.Clock(), place(world, "n1"))
        await put(browser, at, "", "cart", n=0)
        group = browser.route.group
        for number in range(2 * GROUP_SESSIONS):
            browser.jar.pop(dropped)
            await put(browser, at, "", "cart", n=number)
        with MemoryReader(world.hosts["n1"].memory) as reader:
            found = [row for row in rows(reader, group) if row.element is None]
        assert len(found) == GROUP_SESSIONS
        seen = await contents(browser, at, "", "cart")
        assert seen[""] == seen["cart"] == {"n": 2 * GROUP_SESSIONS - 1}

    in_world(scenario)


async def test_what_ended_takes_little_room(alone: Alone, browser: Browser) -> None:
    """A client that logs in and out, or repeats its wizard, keeps one group for a long time."""
    await put(browser, alone, "", n=0)
    first = browser.ticket(WALL)
    for number in range(GROUP_ROWS // 2):
        await put(browser, alone, "", "wizard", n=number)
        await browser.visit(alone.place, lambda visit: visit.session.secondary("wizard").destroy())
    await put(browser, alone, "wizard", n=1)
    wizard = browser.ticket(WALL, "wizard")
    assert first is not None
    assert wizard is not None
    assert wizard.group == first.group
    with alone.place.state.node.store.read() as reader:
        found = [row for row in rows(reader, first.group) if row.element is None]
    assert sum(read_session(row.value).destroyed for row in found) == GROUP_ROWS // 2


# --- turns and crowds ---


async def test_a_request_waits_for_its_turn_at_every_session() -> None:
    engine, browser = FakeEngine(), Browser(terms())
    at = Alone(engine.clock, engine)  # type: ignore[arg-type]
    await put(browser, at, "", *NAMES, n=1)
    engine.state.local, engine.state.turns = False, []

    async def use(visit: Visit) -> None:
        assert engine.state.turns is not None
        assert len(engine.state.turns) == 3
        assert visit.session.secondary("cart")["n"] == 1
        visit.session["n"] = 2
        await visit.respond()
        assert all(turn.ended for turn in engine.state.turns)

    await browser.visit(at.place, use)
    assert (await contents(browser, at, ""))[""] == {"n": 2}


async def test_each_session_has_its_own_limit_of_requests() -> None:
    engine = FakeEngine()
    attributes = CookieAttributes("session")
    browser = Browser(Terms(COOKIES, attributes, attributes, session_requests=1))
    at = Alone(engine.clock, engine)  # type: ignore[arg-type]
    await put(browser, at, "", "cart", n=1)
    first = Visit(engine, browser.terms, [f"session-cart={browser.jar['session-cart']}"])
    assert first.arrive()

    def use(visit: Visit) -> None:
        assert visit.session["n"] == 1
        with pytest.raises(SessionBusy):
            visit.session.secondary("cart")["n"]

    await browser.visit(at.place, use)
    first.leave()
    assert (await contents(browser, at, "cart"))["cart"] == {"n": 1}
    assert browser.terms.under_way == {}


async def test_a_kept_secondary_session_can_be_committed_after_its_request(
    alone: Alone, browser: Browser
) -> None:
    kept: list[Session] = []
    await put(browser, alone, "", "cart", n=1)
    await browser.visit(alone.place, lambda visit: kept.append(visit.session.secondary("cart")))
    kept[0]["n"] = 2
    assert await kept[0].commit() is not None
    assert (await contents(browser, alone, "cart"))["cart"] == {"n": 2}
    await browser.visit(alone.place, lambda visit: visit.session.secondary("cart").destroy())
    kept[0]["n"] = 3
    with pytest.raises(SessionRevoked):
        await kept[0].commit()


async def test_one_that_has_the_users_subject_ends_with_a_log_out_everywhere(
    alone: Alone, browser: Browser
) -> None:
    """Elsewhere too: another browser's cart is one of the user's sessions then, and lists so."""

    def log_in(visit: Visit) -> None:
        for session in (visit.session, visit.session.secondary("cart")):
            session["n"] = 1
            session.subject = "ada"

    async def log_out(visit: Visit) -> None:
        assert len((await visit.session.siblings()).sessions) == 4
        await visit.session.revoke_all()

    other = Browser(browser.terms)
    await browser.visit(alone.place, log_in)
    await other.visit(alone.place, log_in)
    await put(other, alone, "wizard", n=1)
    await browser.visit(alone.place, log_out)
    assert await contents(other, alone, "", *NAMES) == {"": {}, "cart": {}, "wizard": {"n": 1}}

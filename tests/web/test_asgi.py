"""The ASGI middleware, through its front door."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import weakref
from typing import Any

import pytest
from starlette.requests import Request

from sessionha.errors import (
    CommitUnconfirmed,
    ElementNotEncodable,
    InvalidSettings,
    SessionError,
    SessionRevoked,
    SessionUnavailable,
    StoreFull,
)
from sessionha.identity import Position, server_name
from sessionha.peer.messages import Batch
from sessionha.session.cookies import RouteCookies, cluster_tag
from sessionha.session.session import Session
from sessionha.session.visit import Visit
from sessionha.settings import Settings
from sessionha.topology.health import NodeState
from sessionha.web import asgi
from sessionha.web.asgi import (
    Message,
    Receive,
    Scope,
    Send,
    SessionMiddleware,
    session_from,
)
from sessionha.web.base import Refusals
from sessionha.web.wsgi import WSGISessionMiddleware
from tests.session.fakes import FakeEngine
from tests.web.browser import KEY, Browser, middleware, receive, reply, shop

ROUTES = RouteCookies([b"r" * 32])


def cluster(*nodes: str) -> FakeEngine:
    return FakeEngine(nodes or ("n1", "n2", "n3"))


# --- cookies and headers ---


async def test_a_session_lasts_over_requests() -> None:
    browser = Browser(middleware())
    assert (await browser.get("/set/a/1")).json == {"a": "1"}
    assert (await browser.get()).json == {"a": "1"}


async def test_a_response_that_never_touched_the_session_has_neither_cookie_nor_vary() -> None:
    browser = Browser(middleware(engine=cluster()))
    for _ in range(2):
        answer = await browser.get("/static")
        assert (answer.cookies, answer.get("vary")) == ([], None)
        await browser.get("/count")


async def test_reading_an_empty_session_stores_nothing_and_varies() -> None:
    engine = FakeEngine()
    answer = await Browser(middleware(engine=engine)).get()
    assert (answer.cookies, answer.get("vary")) == ([], "Cookie")
    assert not engine.state.batches


async def test_cookie_is_joined_to_the_applications_vary() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"].get("a")
        headers = [(b"Vary", b"Accept")]
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body"})

    answer = await Browser(middleware(app)).get()
    assert answer.headers == [("Vary", "Accept, Cookie")]


async def test_the_session_cookie_is_sent_only_when_there_is_news() -> None:
    engine = FakeEngine()
    browser = Browser(middleware(engine=engine))
    assert (await browser.get("/count")).cookies == ["session"]
    assert (await browser.get("/count")).cookies == []
    assert (await browser.get()).cookies == []
    assert (await browser.get("/login")).cookies == ["session"]
    assert (await browser.get("/clear")).cookies == ["session"]
    assert browser.jar == {}


async def test_a_use_is_recorded_and_extends_the_cookie_when_the_last_one_is_old() -> None:
    engine = FakeEngine()
    browser = Browser(middleware(engine=engine, max_age=1000))
    await browser.get("/count")
    for _ in range(40):
        engine.clock.seconds += 51  # idle/20 is 50 s
        assert (await browser.get()).cookies == ["session"]
    assert (await browser.get()).json == {"n": 1}
    assert len(engine.state.touches) == 40


async def test_an_idle_session_ends_and_its_cookie_is_as_none() -> None:
    """G10; an expired cookie starts no search."""
    engine = FakeEngine()
    browser = Browser(middleware(engine=engine, max_age=1000))
    await browser.get("/count")
    engine.clock.seconds += 1003
    assert (await browser.get()).json == {}
    assert engine.counts == ["session_cookie_refused"]
    assert not engine.state.acquired


async def test_the_absolute_lifetime_counts_only_where_it_was_set_on_purpose() -> None:
    for options, lifetime in (({}, 0), ({"lifetime": 43200}, 43_200_000)):
        settings = Settings.load({}, **options)
        engine = FakeEngine(settings=settings)
        await Browser(middleware(engine=engine)).get("/count")
        create = engine.state.batches[0].changes[0].create
        assert create is not None
        assert create.lifetime == lifetime
        assert create.idle_timeout == 14 * 86_400_000


async def test_secure_follows_the_request() -> None:
    for scheme, secure in (("http", False), ("https", True)):
        answer = await Browser(middleware(engine=cluster()), scheme=scheme).get("/count")
        for name, value in answer.headers:
            if name == "set-cookie":
                assert ("; secure" in value) is secure


async def test_max_age_of_zero_stores_nothing() -> None:
    engine = FakeEngine()
    browser = Browser(middleware(engine=engine, max_age=0))
    assert (await browser.get("/count")).cookies == ["session"]
    assert (await browser.get()).json == {}
    assert not engine.state.batches


async def test_a_plain_dict_in_the_scope_is_stored() -> None:
    browser = Browser(middleware())
    await browser.get("/count")
    await browser.get("/plain")
    assert (await browser.get()).json == {"plain": True}


# --- the route cookie ---


async def test_the_route_cookie_names_the_holders_and_changes_with_them() -> None:
    """System 1 (b), system 5 (b)."""
    engine = cluster("n1", "Node_2", "n3")
    browser = Browser(middleware(engine=engine))
    assert (await browser.get("/count")).cookies == ["session", "hsr"]
    route = ROUTES.read(browser.jar["hsr"])
    assert route is not None
    assert route.servers == ("n1", server_name("Node_2"), "n3")
    assert route.position.version == 1
    assert (await browser.get()).cookies == []
    assert (await browser.get("/count")).cookies == ["hsr"]
    engine.state.holders = ("n1", "n3")
    assert (await browser.get()).cookies == ["hsr"]
    assert (await browser.get()).cookies == []


async def test_a_moved_session_is_acquired_and_its_new_epoch_told() -> None:
    engine = cluster()
    browser = Browser(middleware(engine=engine))
    await browser.get("/count")
    engine.state.away.update(engine.state.groups)
    answer = await browser.get("/count")
    assert answer.json == {"n": 2}
    assert answer.cookies == ["hsr"]
    assert len(engine.state.acquired) == 1


async def test_a_copy_below_the_floor_is_acquired_not_served() -> None:
    """System 5, 9."""
    engine = cluster()
    browser = Browser(middleware(engine=engine))
    await browser.get("/count")
    (group,) = engine.state.groups.values()
    group.position = group.position._replace(version=0)
    engine.state.failure = SessionUnavailable("only an old copy")
    assert (await browser.get("/count")).status == 503


async def test_a_new_session_joins_the_group_of_the_route_cookie_where_it_is_served() -> None:
    """System 4: sessions of one client are together."""
    engine = cluster()
    browser = Browser(middleware(engine=engine))
    await browser.get("/count")
    del browser.jar["session"]
    await browser.get("/count")
    assert len(engine.state.groups) == 1
    del browser.jar["session"]
    engine.state.away.update(engine.state.groups)
    await browser.get("/count")
    assert len(engine.state.groups) == 2
    assert engine.state.fresh == [True, False, True]
    assert not engine.state.acquired


async def test_a_forged_route_cookie_has_no_effect() -> None:
    """System 5 (k)."""
    engine = cluster()
    browser = Browser(middleware(engine=engine))
    await browser.get("/count")
    browser.jar["hsr"] = "1.evil.AAAA.k.".ljust(57, "A")
    assert (await browser.get("/count")).json == {"n": 2}
    assert engine.ways == ["keys_differ"]


async def test_a_session_of_an_earlier_life_of_the_cluster_is_gone_without_a_search() -> None:
    """R7a."""
    engine, other = cluster(), cluster()
    browser = Browser(middleware(engine=other))
    await browser.get("/count")
    browser.app = middleware(engine=engine)
    engine.cluster = cluster_tag("test", "anew")
    answer = await browser.get()
    assert (answer.json, answer.cookies, answer.get("vary")) == ({}, ["session"], "Cookie")
    assert not engine.state.acquired
    assert engine.ways == ["foreign"]


async def test_a_client_of_another_cluster_is_refused_and_gets_no_new_session_in_silence() -> None:
    """System 1 (g): its session is looked for, and what it would lose is not taken from it."""
    engine, other = cluster(), cluster()
    engine.cluster = cluster_tag("mine", "life")
    browser = Browser(middleware(engine=other))
    await browser.get("/count")
    browser.app = middleware(engine=engine)
    for _ in range(2):
        answer = await browser.get("/count")
        assert (answer.status, answer.cookies) == (503, [])
        assert answer.get("sessionha-retry") is None, "no server here has it"
    assert (await browser.get("/static")).status == 200
    assert len(engine.state.acquired) == 3
    assert engine.counts.count("session_foreign") == 3
    browser.app = middleware(engine=other)
    assert (await browser.get("/count")).json == {"n": 2}


async def test_a_session_is_served_though_another_cluster_told_the_route_last() -> None:
    """System 1 (g): two clusters may serve one domain, with one route cookie between them."""
    engine, other = cluster(), cluster()
    other.cluster = cluster_tag("other")
    mine = Browser(middleware(engine=engine))
    theirs = Browser(middleware(engine=other, session_cookie="theirs"), mine.jar)
    for count in (1, 2, 3):
        assert (await mine.get("/count")).json == {"n": count}
        assert (await theirs.get("/count")).json == {"n": count}
    engine.state.away.update(engine.state.groups)
    assert (await mine.get("/count")).json == {"n": 4}


async def test_requests_that_another_server_was_meant_for_are_served_and_counted() -> None:
    """System 1, 6."""
    engine = cluster("n1", "n2")
    browser = Browser(middleware(engine=engine))
    await browser.get("/count")
    engine.state.holders = ("n2", "n1")
    engine.state.away.update(engine.state.groups)
    assert (await browser.get("/count")).json == {"n": 2}
    assert engine.ways == ["lb_ignored"]
    assert (await browser.get("/count")).json == {"n": 3}
    assert engine.ways == ["lb_ignored", "kept"]


async def test_an_engine_with_an_address_of_its_own_stands_first_in_the_route() -> None:
    """System 1 (a), (i): and when its sibling answers for it, that one does."""
    engine = cluster("n1", "n2")
    engine.own_engine = "1"
    browser = Browser(middleware(engine=engine))
    for slot in ("1", "2"):
        engine.own_engine = slot
        assert "hsr" in (await browser.get("/count")).cookies
        route = ROUTES.read(browser.jar["hsr"])
        assert route is not None
        assert route.servers == (server_name("n1", slot), "n2")
        assert (await browser.get()).cookies == []
    assert engine.ways == ["kept", "lb_ignored", "kept"]


async def test_without_peers_there_is_no_route_cookie() -> None:
    assert (await Browser(middleware()).get("/count")).cookies == ["session"]


async def test_fewer_copies_than_configured_are_told() -> None:
    engine = FakeEngine(("n1", "n2"), backups=2)
    browser = Browser(middleware(engine=engine))
    assert (await browser.get("/count")).get("sessionha-copies") == "1"
    assert (await browser.get()).get("sessionha-copies") is None


# --- ends ---


async def test_a_session_proven_gone_is_as_no_cookie_and_cleared() -> None:
    """R12: gone needs proof, and then the browser is told."""
    engine = FakeEngine()
    browser = Browser(middleware(engine=engine))
    await browser.get("/count")
    engine.state.groups.clear()
    answer = await browser.get("/static")
    assert (answer.cookies, answer.get("vary"), browser.jar) == (["session"], "Cookie", {})
    assert engine.counts == ["session_gone"]


async def test_a_request_that_was_under_way_at_a_log_in_does_not_log_the_user_out() -> None:
    engine = FakeEngine()
    browser = Browser(middleware(engine=engine))
    await browser.get("/count")
    late = Browser(browser.app, dict(browser.jar), keep=False)
    await browser.get("/login")
    assert (await late.get()).cookies == []
    engine.clock.seconds += 61
    assert (await late.get()).cookies == ["session"]


async def test_a_late_writer_to_a_destroyed_session_is_dropped() -> None:
    """G6: the log-out wins; the response goes on."""
    engine = FakeEngine()
    browser = Browser(middleware(engine=engine))
    await browser.get("/count")

    def log_out(batch: Batch) -> None:
        for group in engine.state.groups.values():
            group.sessions.clear()

    engine.state.before_commit = log_out
    answer = await browser.get("/count")
    assert (answer.status, answer.cookies) == (200, [])
    assert engine.counts == ["session_revoked"]
    assert (await browser.get()).json == {}


async def test_parallel_requests_with_one_cookie_cause_no_id_churn() -> None:
    """System 5 (i)."""
    engine = cluster()
    browser = Browser(middleware(engine=engine))
    await browser.get("/count")
    jar = dict(browser.jar)
    others = [Browser(browser.app, dict(jar)) for _ in range(30)]
    answers = await asyncio.gather(*(b.get(f"/set/k{i}/v") for i, b in enumerate(others)))
    assert all(answer.cookies == ["hsr"] for answer in answers)
    assert len((await browser.get()).json) == 31
    assert len(engine.state.groups) == 1


@pytest.mark.parametrize("value", ["x", "null", "a" * 56 + ".99999999999." + "A" * 43, ""])
async def test_a_forged_session_cookie_is_as_none(value: str) -> None:
    """Contract, section 3: never 503, never a search."""
    engine = FakeEngine()
    engine.state.failure = SessionUnavailable("must not be asked")
    answer = await Browser(middleware(engine=engine), {"session": value}).get()
    assert (answer.status, answer.json, answer.cookies) == (200, {}, [])
    assert engine.counts == ["session_cookie_refused"]


# --- failures ---


@pytest.mark.parametrize(
    "failure",
    [SessionUnavailable("no"), CommitUnconfirmed(("n2",), 0), StoreFull(1, 1)],
    ids=lambda failure: type(failure).__name__,
)
async def test_a_commit_that_fails_is_503_before_the_first_byte(failure: SessionError) -> None:
    engine = FakeEngine()
    browser = Browser(middleware(engine=engine))
    engine.state.failure = failure
    answer = await browser.get("/count")
    assert (answer.status, answer.get("retry-after"), answer.cookies) == (503, "1", [])
    assert b"n2" not in answer.body
    engine.state.failure = None
    assert (await browser.get()).json == {}


async def test_503_leaves_a_trace_in_the_log_and_does_not_fill_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most one line for each kind of error in ten seconds, with the number of the others."""
    now = 100.0
    monkeypatch.setattr(asgi, "refusals", Refusals(lambda: now))
    engine = FakeEngine()
    browser = Browser(middleware(engine=engine))

    async def fail(error: SessionError) -> list[str]:
        engine.state.failure = error
        caplog.clear()
        assert (await browser.get("/count")).status == 503
        return [f"{each.levelname} {each.getMessage()}" for each in caplog.records]

    said = "WARNING a request was answered with 503: "
    assert await fail(SessionUnavailable("no holder")) == [f"{said}no holder"]
    for _ in range(3):
        assert await fail(SessionUnavailable("no holder")) == []
    assert await fail(StoreFull(1, 1)) == [said + str(StoreFull(1, 1))]
    now += 10
    assert await fail(SessionUnavailable("again")) == [f"{said}again (and 3 more in 10 s)"]
    now += 10
    assert await fail(SessionUnavailable()) == [f"{said}SessionUnavailable"]


@pytest.mark.parametrize("discards", [True, False])
async def test_a_failed_commit_costs_the_response_unless_its_changes_are_dropped(
    discards: bool,
) -> None:
    engine = FakeEngine()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = session_from(scope)
        session["a"] = 1
        with pytest.raises(CommitUnconfirmed):
            await session.commit()
        if discards:
            session.discard()
        await reply(send, "kept on")

    engine.state.failure = CommitUnconfirmed(("n2",), 0)
    answer = await Browser(middleware(app, engine)).get()
    assert answer.status == (200 if discards else 503)


async def unavailable(app: Any) -> Browser:
    engine = FakeEngine()
    browser = Browser(middleware(app, engine))
    browser.app = middleware(shop, engine)
    await browser.get("/count")
    browser.app = middleware(app, engine)
    engine.state.away.update(engine.state.groups)
    engine.state.failure = SessionUnavailable("no holder answered")
    return browser


@pytest.mark.parametrize(("path", "status"), [("/count", 503), ("/static", 200), ("/plain", 503)])
async def test_an_unavailable_session_is_503_at_its_first_use_only(path: str, status: int) -> None:
    browser = await unavailable(shop)
    answer = await browser.get(path)
    assert answer.status == status
    assert answer.cookies == []


async def test_an_application_may_handle_an_unavailable_session_itself() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            user = scope["session"].get("user")
        except SessionUnavailable:
            user = "somebody"
        await reply(send, user)

    answer = await (await unavailable(app)).get()
    assert (answer.json, answer.get("vary")) == ("somebody", "Cookie")


async def test_a_value_that_cannot_be_stored_is_the_applications_error() -> None:
    engine = FakeEngine()
    browser = Browser(middleware(engine=engine))
    with pytest.raises(ElementNotEncodable, match="x"):
        await browser.get("/bad")
    assert not engine.state.batches


async def test_an_endless_stream_stops_when_its_response_was_refused() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["a"] = 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b".", "more_body": True})

    engine = FakeEngine()
    engine.state.failure = SessionUnavailable("no")
    assert (await Browser(middleware(app, engine)).get()).status == 503


async def test_an_error_response_of_the_application_commits() -> None:
    browser = Browser(middleware())
    assert (await browser.get("/error")).status == 500
    assert (await browser.get()).json == {"x": 1}


@pytest.mark.parametrize("step", [(Visit, "arrive"), (Session, "as_dict")], ids=lambda s: s[1])
async def test_a_request_that_fails_before_the_application_does_not_count_for_ever(
    monkeypatch: pytest.MonkeyPatch, step: tuple[type, str]
) -> None:
    app = SessionMiddleware(shop, KEY, engine=FakeEngine())
    browser = Browser(app)
    await browser.get("/count")
    real = getattr(*step)

    def fail(self: object) -> None:
        real(self)
        raise RuntimeError("broken")

    monkeypatch.setattr(*step, fail)
    with pytest.raises(RuntimeError):
        await browser.get("/count")
    assert app.terms.under_way == {}


# --- after the response has started ---


async def test_a_late_failure_is_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await reply(send)
        scope["session"]["late"] = 1

    with caplog.at_level(logging.WARNING, "sessionha"):
        await Browser(middleware(app, engine)).get()
    assert engine.counts == ["late_commit_failed"]
    assert "after the start of its response" in caplog.text


async def test_an_own_commit_reports_to_the_application() -> None:
    engine = cluster()
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = session_from(scope)
        session["a"] = 1
        await session.commit()
        seen.append(session.copies)
        await reply(send)
        session["b"] = 2
        engine.state.failure = CommitUnconfirmed(("n2",), 1)
        with pytest.raises(CommitUnconfirmed):
            await session.commit()
        engine.state.failure = None
        assert await session.commit() is not None

    answer = await Browser(middleware(app, engine)).get()
    assert seen == [2]
    assert answer.cookies == ["session", "hsr"]


async def test_a_log_out_by_somebody_else_is_reported_to_an_own_commit() -> None:
    engine = FakeEngine()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = session_from(scope)
        session["a"] = 1
        await session.commit()
        for group in engine.state.groups.values():
            group.sessions.clear()
        session["a"] = 2
        with pytest.raises(SessionRevoked):
            await session.commit()
        await reply(send)

    await Browser(middleware(app, engine)).get()


async def test_commits_of_one_request_wait_for_each_other() -> None:
    engine = FakeEngine()
    commit = engine.state.commit

    async def slow(
        batch: Batch, *, fresh: bool, floor: Position | None = None, alone: bool = False
    ) -> Any:
        await asyncio.sleep(0)
        return await commit(batch, fresh=fresh, floor=floor, alone=alone)

    engine.state.commit = slow  # type: ignore[method-assign]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = session_from(scope)
        session["a"] = 1
        await asyncio.gather(*(session.commit() for _ in range(5)))
        await reply(send)

    await Browser(middleware(app, engine)).get()
    assert len(engine.state.batches) == 1


async def test_a_session_that_outlives_its_request_can_still_be_committed() -> None:
    engine = FakeEngine()
    kept: list[Session] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        kept.append(session_from(scope))
        await shop(scope, receive, send)

    browser = Browser(middleware(app, engine))
    await browser.get("/count")
    await browser.get("/count")
    kept[1]["late"] = [1]
    assert await kept[1].commit() is not None
    kept[1]["late"].append(2)
    assert await kept[1].commit() is not None
    assert (await browser.get()).json == {"n": 2, "late": [1, 2]}


@pytest.mark.parametrize("path", ["/count", "/login", "/static", "/", "/clear"])
async def test_what_a_request_used_is_freed_when_it_ends(path: str) -> None:
    """Without the garbage collector, which would cost as much as the request itself."""
    engine = cluster()
    freed: list[weakref.ref[object]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        freed.extend((weakref.ref(scope["sessionha"]), weakref.ref(scope["session"])))
        await shop(scope, receive, send)

    browser = Browser(middleware(app, engine))
    gc.disable()
    try:
        await browser.get("/count")
        await browser.get(path)
        assert [reference() for reference in freed] == [None] * 4
    finally:
        gc.enable()


async def test_a_send_after_the_end_of_a_request_sets_no_cookie() -> None:
    engine = FakeEngine()
    late: list[Send] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["a"] = 1
        scope["session"] = {"b": 2}
        late.append(send)

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    browser = Browser(middleware(engine=engine))
    await browser.get("/count")
    await middleware(app, engine)(browser.scope("http"), receive, send)
    await late[0]({"type": "http.response.start", "status": 200, "headers": []})
    assert sent[0]["headers"] == [(b"vary", b"Cookie")]
    assert (await browser.get()).json == {"b": 2}


# --- websockets ---


async def websocket(browser: Browser, **extra: Any) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await browser.app(browser.scope("websocket") | {"scheme": "ws"} | extra, receive, send)
    return sent


async def chat(scope: Scope, receive: Receive, send: Send) -> None:
    session = scope["session"]
    session["joined"] = True
    await send({"type": "websocket.accept"})
    session["said"] = ["hi"]
    await send({"type": "websocket.close", "code": 1000})


async def test_a_websocket_sets_cookies_at_accept_and_commits_at_close() -> None:
    engine = cluster()
    browser = Browser(middleware(chat, engine))
    accept, _ = await websocket(browser)
    headers = [(name.decode(), value.decode()) for name, value in accept["headers"]]
    browser.take(headers)
    browser.app = middleware(shop, engine)
    assert (await browser.get()).json == {"joined": True, "said": ["hi"]}


@pytest.mark.parametrize(
    ("extensions", "sent"),
    [
        ({}, [("websocket.close", 1013)]),
        (
            {"websocket.http.response": {}},
            [("websocket.http.response.start", None), ("websocket.http.response.body", None)],
        ),
    ],
)
async def test_a_websocket_whose_session_is_unavailable_is_refused(
    extensions: dict[str, object], sent: list[object]
) -> None:
    browser = await unavailable(chat)
    messages = await websocket(browser, extensions=extensions)
    assert [(message["type"], message.get("code")) for message in messages] == sent


# --- start, stop, health ---


async def lifespan(app: Any, *messages: str) -> list[Message]:
    sent: list[Message] = []
    asked = iter(messages)

    async def receive() -> Message:
        return {"type": next(asked)}

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "lifespan"}, receive, send)
    return sent


async def test_the_engine_starts_before_the_application_and_stops_after_it() -> None:
    engine = FakeEngine()
    seen: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        seen.append(engine.running)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        seen.append(engine.running)
        await send({"type": "lifespan.shutdown.complete"})

    sent = await lifespan(middleware(app, engine), "lifespan.startup", "lifespan.shutdown")
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete", "lifespan.shutdown.complete"
    ]  # fmt: skip
    assert seen == [True, True]
    assert not engine.running


async def test_an_engine_that_cannot_start_stops_the_server() -> None:
    class Broken(FakeEngine):
        async def start(self) -> None:
            raise InvalidSettings(["`listen` is taken"])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    sent: list[Message] = []

    async def startup() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    with pytest.raises(InvalidSettings):
        await middleware(app, Broken())({"type": "lifespan"}, startup, send)
    assert sent[0]["type"] == "lifespan.startup.failed"
    assert "listen" in sent[0]["message"]


async def test_without_lifespan_the_first_request_starts_the_engine() -> None:
    engine = FakeEngine()
    browser = Browser(middleware(engine=engine))
    assert engine.starts == 0
    await browser.get()
    await browser.get()
    assert engine.starts == 1


async def test_a_node_that_only_a_request_starts_is_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A node must be a member before its first request."""
    settings = Settings.load({}, listen="127.0.0.1:7946", secret="insecure-loopback")
    engine = FakeEngine(settings=settings)
    browser = Browser(middleware(engine=engine))
    await browser.get("/")
    await browser.get("/")
    assert engine.counts.count("late_start") == 1
    assert caplog.text.count("joins its cluster with its first request") == 1


async def test_health_is_answered_only_where_it_is_turned_on() -> None:
    engine = FakeEngine(settings=Settings.load({}, health_path="/internal"))
    browser = Browser(middleware(engine=engine))
    for path, state, status in (
        ("/internal/healthz", NodeState.WAITING, 200),
        ("/internal/readyz", NodeState.READY, 200),
        ("/internal/readyz", NodeState.DRAINING, 404),
        ("/internal/readyz", NodeState.WAITING, 503),
    ):
        engine.node_state = state
        answer = await browser.get(path)
        assert (answer.status, answer.get("cache-control")) == (status, "no-store")
        assert engine.running == path.endswith("readyz")  # to say "I live" starts nothing
    assert (await browser.get("/internal/other")).status == 200
    assert (await Browser(middleware()).get("/readyz")).json == {}


# --- settings ---


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"session_cookie": "__Host-s"}, "https_only"),
        ({"on_error": "keep"}, "on_error"),
        ({"secret_key": ""}, "secret_key"),
        ({"secret_key": []}, "secret_key"),
        ({"secret_key": None}, "environment variable"),
        ({"secret_key": 123}, "secret_key"),
        ({"idle_timout": 5}, "idle_timeout"),
    ],
)
async def test_mistakes_stop_the_server_at_its_start(options: dict[str, Any], named: str) -> None:
    app = SessionMiddleware(shop, **({"secret_key": KEY} | options))
    sent = await refused_start(app, named)
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert re.search(named, sent[0]["message"])


async def test_mistakes_are_raised_by_requests_where_there_is_no_lifespan() -> None:
    with pytest.raises(InvalidSettings, match="idle_timeout"):
        await Browser(SessionMiddleware(shop, KEY, idle_timout=5)).get()


WRONG: dict[str, Any] = {
    "max_age": "14d", "path": "shop", "same_site": "Lax", "https_only": 1, "domain": 7,
    "session_cookie": b"s", "partitioned": "no", "on_error": "keep",
}  # fmt: skip


@pytest.mark.parametrize("door", [SessionMiddleware, WSGISessionMiddleware])
async def test_all_mistakes_in_arguments_and_settings_are_told_together(door: Any) -> None:
    async def begin() -> None:
        await Browser(door(shop, "", backups="many", **WRONG)).get()

    with pytest.raises(InvalidSettings, match="write 14 days as 1209600") as told:
        await begin()
    for name in (*WRONG, "secret_key", "backups"):
        assert f"`{name}`" in str(told.value)


@pytest.mark.parametrize("name", ["max_age", "path", "same_site", "https_only"])
async def test_no_mistake_of_one_argument_waits_for_a_request(name: str) -> None:
    app = SessionMiddleware(shop, KEY, **{name: WRONG[name]})
    await refused_start(app, f"`{name}`")


def test_what_starlette_takes_is_taken() -> None:
    for max_age in (-1, 0, None):
        door = WSGISessionMiddleware(
            lambda *_: [], KEY, max_age=max_age, domain="", engine=FakeEngine()
        )
        assert door.terms.max_age == max_age


async def refused_start(app: SessionMiddleware, named: str) -> list[Message]:
    """What a server is told whose application cannot start."""
    sent: list[Message] = []

    async def startup() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    with pytest.raises(InvalidSettings, match=named):
        await app({"type": "lifespan"}, startup, send)
    return sent


async def test_a_weak_key_is_accepted_alone_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = SessionMiddleware(shop, "example", engine=FakeEngine())
    with caplog.at_level(logging.WARNING, "sessionha"):
        await Browser(app).get()
        await Browser(app).get()
    assert caplog.text.count("secret key") == 1
    assert "example" not in caplog.text


async def test_a_weak_key_is_refused_with_peers() -> None:
    settings = Settings.load(
        {}, node="n1", nodes="n1=http://127.0.0.1:1,n2=http://127.0.0.1:2", secret=KEY
    )
    app = SessionMiddleware(shop, "example", engine=FakeEngine(settings=settings))
    assert "secret key" in (await refused_start(app, "secret key"))[0]["message"]


async def test_keys_rotate() -> None:
    engine = FakeEngine()
    browser = Browser(SessionMiddleware(shop, "o" + KEY, engine=engine))
    await browser.get("/count")
    browser.app = SessionMiddleware(shop, ["n" + KEY, "o" + KEY], engine=engine)
    assert (await browser.get("/count")).json == {"n": 2}
    await browser.get("/login")
    browser.app = SessionMiddleware(shop, "n" + KEY, engine=engine)
    assert (await browser.get("/count")).json == {"n": 3, "user": "ada"}


async def test_the_session_of_a_connection_is_found_and_its_lack_explained() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session_from(Request(scope))["a"] = 1
        session_from(scope)["b"] = 2
        assert scope["session"] == {"a": 1, "b": 2}
        await reply(send)

    await Browser(middleware(app)).get()
    with pytest.raises(LookupError, match="SessionMiddleware"):
        session_from({})

"""What the usual session libraries get wrong, each shown not to happen here.

Through the middleware, a real engine and its store; requests overlap because they wait for events.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from sessionha.engine import Engine
from sessionha.errors import ElementNotReadable, SessionTooLarge, SessionUnavailable
from sessionha.identity import SessionIDs, new_group, session_key
from sessionha.peer.messages import Batch, SessionChange
from sessionha.session.cookies import SessionCookies, application_keys
from sessionha.settings import Settings
from sessionha.state.base import Unsettled
from sessionha.state.records import GROUPS
from sessionha.store.memory import MemoryStore
from sessionha.web.asgi import App, Message, Receive, Scope, Send, SessionMiddleware
from tests.web.browser import KEY, Answer, Browser, reply

Handler = Callable[[Scope], Awaitable[Any]]


class Slow:
    """A request that reads, waits until it is let go, and then does what is left to do."""

    def __init__(self, then: Callable[[Scope], object] = lambda scope: None) -> None:
        self._then = then
        self._read = asyncio.Event()
        self._go = asyncio.Event()
        self._request: asyncio.Task[Answer] | None = None

    async def __call__(self, scope: Scope) -> Any:
        seen = dict(scope["session"])
        self._read.set()
        await self._go.wait()
        self._then(scope)
        return seen

    async def begin(self, browser: Browser) -> None:
        """Send it, with the cookies of now, and wait until it has read its session."""
        other = Browser(browser.app, dict(browser.jar))
        self._request = asyncio.create_task(other.get("/slow"))
        await self._read.wait()

    async def finish(self) -> Answer:
        assert self._request is not None, "it was begun"
        self._go.set()
        return await self._request


def put(**values: object) -> Handler:
    """A request that assigns these elements."""

    async def handler(scope: Scope) -> None:
        scope["session"].update(values)

    return handler


async def get(scope: Scope) -> Any:
    return dict(scope["session"])


async def log_in(scope: Scope) -> None:
    scope["sessionha"].renew_id()
    scope["session"]["user"] = "ada"


async def log_out(scope: Scope) -> None:
    scope["session"].clear()


async def static(_: Scope) -> str:
    return "static"


class Site:
    """A site whose paths are handlers of a scope, and the engine behind it."""

    def __init__(self, **settings: object) -> None:
        given = {"store": "memory", "admin": "off"} | settings
        self.engine = Engine(Settings.load({}, **given), application_keys(KEY))

    def browser(self, **paths: Handler) -> Browser:
        """A browser at the site with these paths beside the common ones."""
        known = {"": get, "log-in": log_in, "log-out": log_out, "static": static} | paths

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await reply(send, await known[scope["path"].strip("/")](scope))

        return Browser(self.around(app))

    def around(self, app: App, **options: Any) -> App:
        return SessionMiddleware(app, KEY, engine=self.engine, **options)

    @property
    def store(self) -> MemoryStore:
        store = self.engine.state.node.store
        assert isinstance(store, MemoryStore)
        return store

    def rows(self) -> int:
        """How many rows of groups, sessions and elements are stored."""
        with self.store.read() as reader:
            return sum(1 for _ in reader.scan(GROUPS))


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    yield made
    await made.engine.stop()


# --- requests that overlap -----------------------------------------------------------------------


async def test_two_overlapping_writers_of_different_keys_both_last(site: Site) -> None:
    """Peers' defect 1: the session that was read first is written back whole, without the key
    that the other request put in."""
    slow = Slow(lambda scope: scope["session"].update(slow="was here"))
    browser = site.browser(slow=slow, fast=put(fast="was here"), first=put(n=1))
    await browser.get("/first")
    await slow.begin(browser)
    await browser.get("/fast")
    assert (await slow.finish()).json == {"n": 1}
    assert (await browser.get()).json == {"n": 1, "fast": "was here", "slow": "was here"}


READS: dict[str, Callable[[Scope], object]] = {
    "reads": lambda scope: scope["session"].get("n"),
    "looks at every value": lambda scope: [*scope["session"].values()],
    "is counted as a use": lambda scope: scope["sessionha"].touch(),
    "is said to be modified": lambda scope: setattr(scope["session"], "modified", True),
    "assigns what it read": lambda scope: scope["session"].update(cart=["tea"]),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
async def test_a_slow_reader_does_not_erase_what_was_written_meanwhile(
    site: Site, read: Callable[[Scope], object]
) -> None:
    """Peers' defect 2: also where it records its use, or its framework saves every request."""
    slow = Slow(read)
    browser = site.browser(
        slow=slow, first=put(n=1, cart=["tea"]), fast=put(n=2, cart=["tea", "milk"], new=True)
    )
    await browser.get("/first")
    await slow.begin(browser)
    await browser.get("/fast")
    assert (await slow.finish()).json == {"n": 1, "cart": ["tea"]}
    assert (await browser.get()).json == {"n": 2, "cart": ["tea", "milk"], "new": True}


AFTER_LOG_OUT = READS | {
    "writes": lambda scope: scope["session"].update(n=2),
    "logs in": lambda scope: scope["sessionha"].renew_id(),
}


@pytest.mark.parametrize("act", AFTER_LOG_OUT.values(), ids=AFTER_LOG_OUT)
async def test_a_log_out_that_overlaps_a_slow_request_stays(
    site: Site, act: Callable[[Scope], object]
) -> None:
    """Peers' defect 3: the slow request stores the session again, or sets its cookie again."""
    slow = Slow(act)
    browser = site.browser(slow=slow, first=put(n=1, cart=["tea"]))
    await browser.get("/first")
    before = dict(browser.jar)
    await slow.begin(browser)
    await browser.get("/log-out")
    answer = await slow.finish()
    assert (answer.status, answer.cookies) == (200, [])
    assert browser.jar == {}
    assert (await Browser(browser.app, before).get()).json == {}


# --- whose session it is -------------------------------------------------------------------------


def planted_ids() -> dict[str, str]:
    """What an attacker may put into a browser: invented, well-formed, even signed by the site."""
    cookies = SessionCookies(application_keys(KEY), "session")
    absent = SessionIDs(application_keys(KEY)).new(new_group())
    others = SessionIDs((b"another application's key",)).new(new_group())
    return {
        "a word": "attackers-choice",
        "an ID of another application": others,
        "an ID without signature": absent,
        "an ID of another application, signed by this one": cookies.write(others, 1 << 33),
        "an ID that nobody has": cookies.write(absent, 1 << 33),
    }


@pytest.mark.parametrize("planted", planted_ids().values(), ids=planted_ids())
async def test_an_id_that_an_attacker_chose_is_not_adopted(site: Site, planted: str) -> None:
    """Peers' defect 4: the victim's data is stored under it, and the attacker reads it."""
    victim = site.browser(first=put(secret=1))
    victim.jar["session"] = planted
    answer = await victim.get("/first")
    assert answer.cookies == ["session"]
    assert victim.jar["session"].partition(".")[0] != planted.partition(".")[0]
    assert (await victim.get()).json == {"secret": 1}
    assert (await Browser(victim.app, {"session": planted}).get()).json == {}


@pytest.mark.parametrize("act", AFTER_LOG_OUT.values(), ids=AFTER_LOG_OUT)
async def test_the_old_id_is_dead_after_renewal(site: Site, act: Callable[[Scope], object]) -> None:
    """Peers' defect 5; I16: who planted it does not get in, and a request that is under way with
    it neither changes the session nor takes the new cookie away."""
    slow = Slow(act)
    browser = site.browser(slow=slow, first=put(n=1, cart=["tea"]))
    await browser.get("/first")
    old = dict(browser.jar)
    await slow.begin(browser)
    await browser.get("/log-in")
    assert (await slow.finish()).cookies == []
    attacker = Browser(browser.app, old)
    assert (await attacker.get()).json == {}
    assert (await browser.get()).json == {"n": 1, "cart": ["tea"], "user": "ada"}


# --- a store that does not work ------------------------------------------------------------------


def gone(site: Site) -> None:
    site.store.kill()


def elsewhere(site: Site) -> None:
    def load(*_: object) -> NoReturn:
        raise Unsettled("not here")

    async def find(*_: object) -> NoReturn:
        raise SessionUnavailable("no holder answered")

    state = site.engine.state
    state.load = load  # type: ignore[method-assign, assignment]
    state.find = find  # type: ignore[method-assign, assignment]


def full(site: Site) -> None:
    site.store.memory.size = 1


@pytest.mark.parametrize("fail", [gone, elsewhere, full])
async def test_without_its_store_a_site_serves_what_needs_no_session(
    site: Site, fail: Callable[[Site], None]
) -> None:
    """Peers' defect 6: every route fails, or the cookie is deleted and everybody is logged out."""
    browser = site.browser(put=put(n=2), first=put(n=1))
    await browser.get("/first")
    before = dict(browser.jar)
    fail(site)
    answer = await browser.get("/static")
    assert (answer.status, answer.json, answer.cookies) == (200, "static", [])
    answer = await browser.get("/put")
    assert (answer.status, answer.get("retry-after"), answer.cookies) == (503, "1", [])
    stranger = Browser(browser.app)
    assert (await stranger.get("/static")).status == 200
    answer = await stranger.get("/put")
    refused = fail is not elsewhere  # a new session needs nobody else
    assert (answer.status, answer.cookies) == ((503, []) if refused else (200, ["session"]))
    assert browser.jar == before


async def test_a_full_store_still_serves_reads(site: Site) -> None:
    """Peers' defect 6: what is full refuses new data, and nothing else."""
    browser = site.browser(first=put(n=1))
    await browser.get("/first")
    full(site)
    answer = await browser.get()
    assert (answer.status, answer.json, answer.cookies) == (200, {"n": 1}, [])


# --- what is stored, and when --------------------------------------------------------------------


async def test_a_hit_that_never_touches_the_session_stores_nothing(site: Site) -> None:
    """Peers' defect 7: every crawler leaves a record and gets a cookie."""
    browser = site.browser()
    for path in ("/static", "/"):
        assert (await browser.get(path)).cookies == []
    assert (site.rows(), browser.jar) == (0, {})


def starlette(site: Site) -> App:
    """Starlette's own ways to do something after its response has begun."""

    def later(request: Request) -> Response:
        request.session["response"] = 1

        async def work() -> None:
            request.session["background"] = 2

        return JSONResponse(None, background=BackgroundTask(work))

    def stream(request: Request) -> Response:
        request.session["response"] = 1

        async def chunks() -> AsyncIterator[bytes]:
            for number in range(3):
                request.session["streamed"] = number
                yield b"."

        return StreamingResponse(chunks())

    async def chat(socket: WebSocket) -> None:
        socket.session["joined"] = True
        await socket.accept()
        async for text in socket.iter_text():
            socket.session.setdefault("said", []).append(text)

    def show(request: Request) -> Response:
        return JSONResponse(request.session)

    routes = [
        Route("/", show), Route("/later", later), Route("/stream", stream),
        WebSocketRoute("/chat", chat),
    ]  # fmt: skip
    return site.around(Starlette(routes=routes))


class Starlettes(Browser):
    """A browser that says what Starlette wants to know of a request."""

    def scope(self, kind: str, path: str = "/") -> dict[str, Any]:
        about = {"method": "GET", "root_path": "", "query_string": b"", "subprotocols": []}
        return super().scope(kind, path) | about | {"asgi": {"spec_version": "2.4"}}


async def test_changes_in_a_background_task_are_stored(site: Site) -> None:
    """Peers' defect 8; R15; system 5, 11."""
    browser = Starlettes(starlette(site))
    await browser.get("/later")
    assert (await browser.get()).json == {"response": 1, "background": 2}


async def test_changes_while_a_body_is_streamed_are_stored(site: Site) -> None:
    """Peers' defect 8; R15; system 5, 11."""
    browser = Starlettes(starlette(site))
    assert (await browser.get("/stream")).body == b"..."
    assert (await browser.get()).json == {"response": 1, "streamed": 2}


async def test_changes_in_a_websocket_are_stored(site: Site) -> None:
    """Peers' defect 8: what was changed before it was accepted, and while it was open."""
    browser = Starlettes(starlette(site))
    coming: list[Message] = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": "hello"},
        {"type": "websocket.receive", "text": "goodbye"},
        {"type": "websocket.disconnect", "code": 1000},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return coming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await browser.app(browser.scope("websocket", "/chat") | {"scheme": "ws"}, receive, send)
    browser.take([(name.decode(), value.decode()) for name, value in sent[0]["headers"]])
    assert (await browser.get()).json == {"joined": True, "said": ["hello", "goodbye"]}


@pytest.mark.parametrize(("on_error", "kept"), [("discard", {}), ("commit", {"x": 1})])
async def test_changes_before_an_unhandled_error_follow_on_error(
    site: Site, on_error: str, kept: dict[str, int]
) -> None:
    """Peers' defect 8: whoever counts failed log-ins can keep the count."""

    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["x"] = 1
        raise RuntimeError("broken")

    browser = site.browser(first=put(n=1))
    await browser.get("/first")
    broken = Browser(site.around(fail, on_error=on_error), browser.jar)
    with pytest.raises(RuntimeError, match="broken"):
        await broken.get()
    assert (await browser.get()).json == {"n": 1} | kept


MUTATIONS: dict[str, Callable[[Any], object]] = {
    "append": lambda session: session["cart"].append("milk"),
    "through get": lambda session: session.get("cart").append("milk"),
    "through values": lambda session: next(iter(session.values())).append("milk"),
    "through setdefault": lambda session: session.setdefault("cart", []).append("milk"),
}


@pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS)
async def test_a_change_inside_a_value_is_stored(
    site: Site, mutate: Callable[[Any], object]
) -> None:
    """Peers' defect 9: it is stored only when a flag is set by hand."""

    async def change(scope: Scope) -> None:
        mutate(scope["session"])

    browser = site.browser(first=put(cart=["tea"]), change=change)
    await browser.get("/first")
    await browser.get("/change")
    assert (await browser.get()).json == {"cart": ["tea", "milk"]}


RAN: list[str] = []


class Exploit:
    """What runs when somebody unpickles it."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return RAN.append, ("unpickled",)


@pytest.mark.parametrize(
    "garbage",
    [pickle.dumps(Exploit()), pickle.dumps(Exploit(), 0), b"", b"\xc1", b"\xc7\x03\x63abc"],
    ids=["pickle", "pickle 0", "nothing", "no msgpack", "unknown type"],
)
async def test_bytes_that_are_no_value_of_ours_are_never_run(site: Site, garbage: bytes) -> None:
    """Peers' defect 10: what cannot be decoded is unpickled, and so executed. Here that element
    alone cannot be read, and it stays."""

    async def read(scope: Scope) -> str:
        with pytest.raises(ElementNotReadable, match="odd"):
            scope["session"]["odd"]
        return ",".join(scope["session"])

    browser = site.browser(first=put(n=1), read=read, put=put(n=2))
    await browser.get("/first")
    session_id = browser.jar["session"].partition(".")[0]
    ids = SessionIDs(application_keys(KEY))
    group = ids.group(session_id)
    assert group is not None
    change = SessionChange(session_key(session_id, "default"), puts=(("odd", "value", garbage),))
    await site.engine.state.commit(Batch(group, (change,)), fresh=False)
    assert (await browser.get("/read")).json == "n"
    assert (await browser.get("/put")).status == 200
    assert (await browser.get("/read")).json == "n"
    assert (await browser.get()).json == {"n": 2}
    assert RAN == []


async def test_a_session_over_four_kilobytes_lasts(site: Site) -> None:
    """Peers' defect 11: the browser drops the cookie that should hold it, and says nothing."""
    browser = site.browser(first=put(text="x" * 40_000), more=put(rest="x" * 40_000))
    await browser.get("/first")
    assert len((await browser.get()).json["text"]) == 40_000
    assert len(browser.jar["session"]) < 200
    with pytest.raises(SessionTooLarge, match="session_bytes"):
        await browser.get("/more")
    assert (await browser.get()).json.keys() == {"text"}

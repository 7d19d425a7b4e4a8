"""The WSGI door: what servers and applications see of it, and that threads may use it at once."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest

from sessionha.engine import Engine
from sessionha.errors import (
    CommitUnconfirmed,
    InvalidSettings,
    SessionBusy,
    SessionTooLarge,
    SessionUnavailable,
    StoreFull,
)
from sessionha.peer.messages import Batch
from sessionha.session.carrier import current_session
from sessionha.session.session import Session
from sessionha.session.visit import Visit
from sessionha.settings import Settings
from sessionha.topology.health import NodeState
from sessionha.web import workers, wsgi
from sessionha.web.asgi import Message, Receive, Scope, Send, SessionMiddleware
from sessionha.web.base import Refusals
from sessionha.web.door import Promise
from sessionha.web.mixed import MixedDoor
from sessionha.web.threads import Host, host_for
from sessionha.web.wsgi import WAIT, WSGISessionMiddleware
from tests.session.fakes import FakeEngine

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication

KEY = "Zk3n8-2mQpX_7vRbL0wYcT9sHdJfGaUe"
PEERS = {
    "SESSIONHA_NODES": "n1=http://127.0.0.1:7951,n2=http://127.0.0.1:7952",
    "SESSIONHA_NODE": "n1",
    "SESSIONHA_SECRET": "insecure-loopback",
    "SESSIONHA_ADMIN": "off",
}
START = "sessionha.session"


@dataclass
class Answer:
    """A response."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def get(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key.lower() == name]
        return ", ".join(found) or None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def cookies(self) -> list[str]:
        return [v.partition("=")[0] for k, v in self.headers if k.lower() == "set-cookie"]


@dataclass
class Server:
    """A server as strict as `wsgiref.validate`, and one client with a jar."""

    app: WSGIApplication
    jar: dict[str, str] = field(default_factory=dict)

    def get(self, path: str = "/", **environ: Any) -> Answer:
        started: list[tuple[str, list[tuple[str, str]]]] = []
        written = io.BytesIO()

        def start_response(status: str, headers: Any, exc_info: Any = None, /) -> Any:
            if exc_info is not None and started:
                raise exc_info[1]
            assert not started
            started.append((status, headers))
            return written.write

        asked = {"PATH_INFO": path, "SCRIPT_NAME": "", "QUERY_STRING": "", **environ}
        if self.jar:
            asked["HTTP_COOKIE"] = "; ".join(f"{k}={v}" for k, v in self.jar.items())
        setup_testing_defaults(asked)
        body = validator(self.app)(asked, start_response)
        try:
            for item in body:
                written.write(item)
        finally:
            body.close()  # type: ignore[attr-defined]
        status, headers = started[0]
        for name, value in headers:
            if name.lower() == "set-cookie":
                morsel = next(iter(SimpleCookie(value).values()))
                if morsel["expires"].endswith("1970 00:00:00 GMT"):
                    self.jar.pop(morsel.key, None)
                else:
                    self.jar[morsel.key] = morsel.value
        return Answer(int(status[:3]), headers, written.getvalue())


def shop(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """An application whose paths each do one thing with the session."""
    session = environ[START]
    said: Any = None
    match environ["PATH_INFO"].strip("/").split("/"):
        case ["count"]:
            session["n"] = session.get("n", 0) + 1
        case ["put", name]:
            session[name] = True
        case ["clear"]:
            session.clear()
        case ["append"]:
            session.setdefault("list", []).append(1)
        case ["fail"]:
            session["x"] = 1
            raise RuntimeError("broken")
        case ["static"]:
            said = "static"
    body = json.dumps(dict(session) if said is None else said).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]


def door(
    app: WSGIApplication = shop, engine: FakeEngine | None = None, **options: Any
) -> WSGISessionMiddleware:
    return WSGISessionMiddleware(app, KEY, engine=engine or FakeEngine(), **options)


TEXT = [("Content-Type", "text/plain")]


def as_list(change: Callable[[], None], start: StartResponse) -> Iterable[bytes]:
    start("200 OK", TEXT)
    change()
    return [b"body"]


def as_generator(change: Callable[[], None], start: StartResponse) -> Iterable[bytes]:
    start("200 OK", TEXT)
    change()
    yield b"bo"
    yield b"dy"


def as_late_iterator(change: Callable[[], None], start: StartResponse) -> Iterable[bytes]:
    start("200 OK", TEXT)

    def body() -> Iterator[bytes]:
        change()
        yield b"body"

    return body()


def as_written(change: Callable[[], None], start: StartResponse) -> Iterable[bytes]:
    write = start("200 OK", TEXT)
    change()
    write(b"body")
    return []


STYLES = [as_list, as_generator, as_late_iterator, as_written]
styles = pytest.mark.parametrize("style", STYLES, ids=lambda style: style.__name__)


def styled(style: Any, change: Callable[[Any], None]) -> WSGIApplication:
    """An application that changes its session and answers in one of the ways that WSGI has."""

    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        answer: Iterable[bytes] = style(lambda: change(environ[START]), start_response)
        return answer

    return app


def broken() -> Iterable[bytes]:
    raise RuntimeError("broken")


def count(session: Any) -> None:
    session["n"] = session.get("n", 0) + 1


@pytest.mark.parametrize("step", [(Visit, "arrive"), (Session, "as_dict")], ids=lambda s: s[1])
def test_a_request_that_fails_before_the_application_does_not_count_for_ever(
    monkeypatch: pytest.MonkeyPatch, step: tuple[type, str]
) -> None:
    app = door()
    server = Server(app)
    server.get("/count")
    real = getattr(*step)

    def fail(self: object) -> None:
        real(self)
        raise RuntimeError("broken")

    monkeypatch.setattr(*step, fail)
    with pytest.raises(RuntimeError):
        server.get("/count")
    assert app.terms.under_way == {}


# --- cookies and headers ---


def test_a_session_lasts_over_requests() -> None:
    server = Server(door())
    assert server.get("/count").json == {"n": 1}
    assert server.get("/append").json == {"n": 1, "list": [1]}
    assert server.get("/append").json == {"n": 1, "list": [1, 1]}
    assert server.get().json == {"n": 1, "list": [1, 1]}


def test_the_session_cookie_is_sent_only_when_there_is_news() -> None:
    server = Server(door(engine=FakeEngine(("n1", "n2"))))
    assert server.get("/count").cookies == ["session", "hsr"]
    assert server.get("/count").cookies == ["hsr"]
    assert server.get().cookies == []
    assert server.get("/clear").cookies == ["session", "hsr"]


def test_a_response_that_never_touched_the_session_has_neither_cookie_nor_vary() -> None:
    server = Server(door(engine=FakeEngine(("n1", "n2"))))
    for _ in range(2):
        answer = server.get("/static")
        assert (answer.cookies, answer.get("vary")) == ([], None)
        server.get("/count")


@pytest.mark.parametrize(
    ("own", "joined"),
    [(None, "Cookie"), ("Accept", "Accept, Cookie"), ("*", "*"), ("cookie", "cookie")],
)
def test_cookie_is_joined_to_the_applications_vary(own: str | None, joined: str) -> None:
    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        environ[START].get("a")
        start_response("200 OK", [*TEXT, *([("Vary", own)] if own else [])])
        return [b""]

    assert Server(door(app)).get().get("vary") == joined


def test_cookies_are_secure_where_the_request_came_over_https() -> None:
    answer = Server(door()).get("/count", **{"wsgi.url_scheme": "https"})
    assert "; secure" in (answer.get("set-cookie") or "").lower()


# --- commits ---


@styles
def test_changes_are_committed_before_the_server_hears_of_the_response(style: Any) -> None:
    """R15, in every way in which WSGI lets applications answer."""
    engine = FakeEngine()
    heard: list[int] = []
    app = door(styled(style, count), engine)

    def start_response(*_: Any) -> Any:
        heard.append(len(engine.state.batches))
        return lambda data: None

    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    body = app(environ, start_response)
    assert heard == [] or style in (as_list, as_written)
    list(body)
    if hasattr(body, "close"):
        body.close()
    assert heard == [1]
    assert Server(app).get().cookies == ["session"]


def test_a_change_between_two_pieces_of_the_body_is_committed_when_the_server_closes_it() -> None:
    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterator[bytes]:
        session = environ[START]
        count(session)
        start_response("200 OK", TEXT)
        yield b"one "
        count(session)
        yield b"two"

    engine = FakeEngine()
    assert Server(door(app, engine)).get().body == b"one two"
    assert len(engine.state.batches) == 2


def test_a_change_that_cannot_be_committed_any_more_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b"one"
        count(environ[START])  # the session would begin, and its cookie cannot be sent

    engine = FakeEngine()
    with caplog.at_level(logging.WARNING):
        assert Server(door(app, engine)).get().status == 200
    assert "was not stored" in caplog.text
    assert engine.counts == ["late_commit_failed"]


def test_an_application_can_commit_when_it_wants_and_is_told() -> None:
    told: list[Any] = []

    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterator[bytes]:
        session = environ[START]
        count(session)
        start_response("200 OK", TEXT)
        yield b"one"
        count(session)
        told.append(environ[WAIT](session.commit()).copies)

    engine = FakeEngine(("n1", "n2"))
    Server(door(app, engine)).get()
    assert told == [1]


def test_a_body_that_is_closed_before_it_was_read_still_starts_the_response() -> None:
    engine = FakeEngine()
    started: list[str] = []
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)

    def start_response(status: str, *_: Any) -> Any:
        started.append(status)

    body: Any = door(styled(as_late_iterator, count), engine)(environ, start_response)
    environ[START]["a"] = 1
    body.close()
    body.close()
    assert started == ["200 OK"]
    assert len(engine.state.batches) == 1


def test_the_server_gets_complete_bodies_as_they_are() -> None:
    """It may count the items of a list, and send a file in its own way."""
    file = FileWrapper(io.BytesIO(b"file"))

    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        return file if environ["PATH_INFO"] == "/file" else [b"list"]

    for path, expected in (("/file", file), ("/list", [b"list"])):
        environ: dict[str, Any] = {"PATH_INFO": path, "wsgi.file_wrapper": FileWrapper}
        setup_testing_defaults(environ)
        assert door(app)(environ, lambda *_: lambda data: None) == expected
    assert file.filelike.read() == b"file"


def test_an_error_page_replaces_the_response_that_was_not_sent() -> None:
    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        count(environ[START])
        start_response("200 OK", TEXT)
        try:
            list(broken())
        except RuntimeError:
            start_response("500 Broken", TEXT, sys.exc_info())
        return [b"sorry"]

    answer = Server(door(app)).get()
    assert (answer.status, answer.body, answer.cookies) == (500, b"sorry", ["session"])


def test_an_error_after_the_start_goes_to_the_server() -> None:
    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b"one"
        error = RuntimeError("broken")
        start_response("500 Broken", TEXT, (RuntimeError, error, None))  # type: ignore[arg-type]

    with pytest.raises(RuntimeError, match="broken"):
        Server(door(app)).get()


@pytest.mark.parametrize(("on_error", "commits"), [("discard", 0), ("commit", 1)])
@pytest.mark.parametrize("late", [False, True])
def test_changes_of_an_application_that_raises(on_error: str, commits: int, late: bool) -> None:
    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/count":
            return shop(environ, start_response)

        def body() -> Iterator[bytes]:
            environ[START]["x"] = 1
            yield from broken()

        start_response("200 OK", TEXT)
        return body() if late else list(body())

    engine = FakeEngine()
    server = Server(door(app, engine, on_error=on_error))
    server.get("/count")
    with pytest.raises(RuntimeError, match="broken"):
        server.get("/fail")
    assert len(engine.state.batches) == 1 + commits
    assert server.get("/count").json["n"] == 2


# --- what cannot be had ---


@styles
def test_the_application_gets_what_a_strict_server_gives(style: Any) -> None:
    server = Server(door(validator(styled(style, count))))
    assert [server.get().body for _ in range(2)] == [b"body"] * 2


@styles
@pytest.mark.parametrize(
    ("error", "retry"),
    [
        (CommitUnconfirmed(("n2",), 0), "elsewhere-if-repeatable"),
        (StoreFull(9, 9), "elsewhere"),
        (SessionBusy.crowded(9), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_commit_that_fails_is_answered_with_503(
    style: Any,
    error: Exception,
    retry: str | None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wsgi, "refusals", Refusals())
    engine = FakeEngine()
    server = Server(door(styled(style, count), engine))
    server.get()
    engine.state.failure = error  # type: ignore[assignment]
    answer = server.get()
    assert (answer.status, answer.get("retry-after"), answer.cookies) == (503, "1", [])
    assert answer.get("sessionha-retry") == retry
    assert answer.body.startswith(b"The session is not available")
    assert caplog.messages == [f"a request was answered with 503: {error}"]


@styles
def test_a_session_that_cannot_be_had_is_answered_with_503_when_it_is_used(style: Any) -> None:
    engine = FakeEngine()
    server = Server(door(styled(style, count), engine))
    server.get()
    engine.state.away = set(engine.state.groups)
    engine.state.failure = SessionUnavailable("nobody answers")
    assert server.get().status == 503
    server.app = door(styled(style, lambda session: None), engine)
    assert server.get().status == 200


def test_what_is_written_after_a_refusal_is_refused() -> None:
    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        count(environ[START])
        write = start_response("200 OK", TEXT)
        write(b"one")
        with pytest.raises(OSError, match="replaced by 503"):
            write(b"two")
        return [b"three"]

    engine = FakeEngine()
    engine.state.failure = SessionUnavailable("nobody answers")
    answer = Server(door(app, engine)).get()
    assert answer.status == 503
    assert b"t" + b"wo" not in answer.body
    assert b"three" not in answer.body


def test_a_mistake_of_the_application_goes_to_the_server() -> None:
    engine = FakeEngine()
    engine.state.failure = SessionTooLarge("size", 2, 1, "session_bytes")
    with pytest.raises(SessionTooLarge):
        Server(door(engine=engine)).get("/count")


# --- settings ---


def test_wrong_arguments_and_settings_are_refused_at_once() -> None:
    with pytest.raises(InvalidSettings, match="on_error"):
        door(on_error="ignore")
    with pytest.raises(InvalidSettings, match="secret_key"):
        WSGISessionMiddleware(shop, "", engine=FakeEngine())
    with pytest.raises(InvalidSettings, match="sesion_bytes"):
        WSGISessionMiddleware(shop, KEY, sesion_bytes=1)


def test_health_paths() -> None:
    engine = FakeEngine(settings=Settings.load({}, health_path="/-/"))
    server = Server(door(engine=engine))
    assert server.get("/-/healthz").status == 200
    engine.node_state = NodeState.STARTING
    answer = server.get("/-/readyz")
    assert (answer.status, answer.body) == (503, b"not ready\n")
    assert server.get("/other").status == 200


def test_the_session_may_lie_elsewhere_in_the_environment() -> None:
    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        count(environ["beaker.session"])
        start_response("200 OK", TEXT)
        return [str(environ["beaker.session"]["n"]).encode()]

    server = Server(door(app, environ_key="beaker.session"))
    assert [server.get().body for _ in range(2)] == [b"1", b"2"]


def test_a_door_inside_another_one_leaves_the_outer_session_where_it_was() -> None:
    engine = FakeEngine()
    inner = door(styled(as_list, count), engine, session_cookie="inner", virtual_server="inner")

    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        outer = environ[START]
        body = inner(environ, start_response)
        assert environ[START] is outer
        outer["outer"] = True
        return body

    server = Server(door(app, engine))
    assert sorted(server.get().cookies) == ["inner", "session"]


def test_secondary_sessions_and_code_that_looks_for_its_session() -> None:
    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterator[bytes]:
        wizard = environ[START].secondary("wizard")
        count(wizard)
        start_response("200 OK", TEXT)
        yield str(wizard["n"]).encode()
        assert current_session() is environ[START]

    engine = FakeEngine(("n1", "n2"))
    server = Server(door(app, engine))
    answer = server.get()
    assert (answer.body, answer.cookies) == (b"1", ["session-wizard", "hsr"])
    assert server.get().body == b"2"
    with pytest.raises(LookupError):
        current_session()


# --- threads ---


@pytest.fixture
def host() -> Iterator[Callable[[Engine | FakeEngine], Host]]:
    """Hosts of engines that are stopped at the end."""
    hosts: list[Host] = []

    def of(engine: Engine | FakeEngine) -> Host:
        hosts.append(host_for(engine))
        return hosts[-1]

    yield of
    for found in hosts:
        found.stop()


def in_child(works: Callable[[], bool]) -> None:
    """Whether it does in a process that is forked here and now."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that this process has threads
        child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if works() else 1
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def with_peers(**keywords: object) -> FakeEngine:
    return FakeEngine(("n1", "n2"), settings=Settings.load(PEERS, **keywords))


@pytest.fixture
def member(tmp_path: Path) -> Engine:
    """A real engine of a node that waits for nobody."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = Settings.load(
        {**PEERS, "SESSIONHA_NODES": f"n1=http://{address}"},
        store=str(tmp_path / "store"),
        state_dir=str(tmp_path / "state"),
        store_size="8MiB",
        discovery_time="0.1s",
    )
    return Engine(settings, (KEY.encode(),))


def alone(tmp_path: Path) -> Engine:
    settings = Settings.load({}, store=str(tmp_path / "store"), store_size="8MiB")
    return Engine(settings, (KEY.encode(),))


@pytest.mark.parametrize("peers", [False, True])
def test_many_threads_use_one_engine(tmp_path: Path, member: Engine, peers: bool) -> None:
    """No change is lost and nothing is left behind; without peers no event loop was ever made."""
    app = WSGISessionMiddleware(shop, KEY, engine=member if peers else alone(tmp_path))
    servers = [Server(app) for _ in range(4)]
    for server in servers:
        server.get("/count")

    def work(number: int) -> None:
        mine = Server(app, servers[number % 4].jar.copy())
        for turn in range(25):
            assert mine.get(f"/put/{number}-{turn}").status == 200
            assert f"{number}-{turn}" in mine.get().json

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert [len(server.get().json) for server in servers] == [51] * 4
    assert not app.terms.under_way
    found = app.start()
    assert found.looped is peers
    found.stop()


def test_with_peers_a_request_reads_in_its_own_thread_and_commits_on_the_engines(
    host: Callable[[FakeEngine], Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = with_peers()
    host(engine)
    server = Server(door(engine=engine))
    committed: list[str] = []

    def note(batch: Batch) -> None:
        asyncio.get_running_loop()
        committed.append(threading.current_thread().name)

    engine.state.before_commit = note
    server.get("/count")
    assert committed == ["sessionha engine"]

    def hop(*_: Any) -> None:
        raise AssertionError("a request that only reads waits for no other thread")

    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "run_coroutine_threadsafe", hop)
        assert server.get().json == {"n": 1}
    engine.state.away = set(engine.state.groups)
    assert server.get("/count").json == {"n": 2}
    assert engine.state.acquired


def test_nothing_else_happens_in_the_engine_while_a_thread_uses_it(
    host: Callable[[FakeEngine], Host],
) -> None:
    """And a loop that is never idle keeps nobody out."""
    engine = with_peers()
    mine = host(engine)
    mine.start()
    inside = threading.Event()
    seen: list[bool] = []

    async def never_idle() -> None:
        while not stopped:
            seen.append(inside.is_set())
            await asyncio.sleep(0)

    def step() -> None:
        inside.set()
        time.sleep(0.001)  # gives the interpreter away: the other thread would run now
        inside.clear()

    stopped: list[bool] = []
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(mine.wait, never_idle())
        for _ in range(50):
            mine.call(step)
        stopped.append(True)
        busy.result()
    assert len(seen) > 50
    assert not any(seen)


def test_requests_that_take_turns_do_so_on_the_engines_loop(
    host: Callable[[FakeEngine], Host],
) -> None:
    engine = FakeEngine(settings=Settings.load({}, concurrency="serialize"))
    engine.state.local, engine.state.turns = False, []
    mine = host(engine)
    server = Server(door(engine=engine))
    assert [server.get("/count").json["n"] for _ in range(3)] == [1, 2, 3]
    assert mine.looped
    assert len(engine.state.turns) == 2
    assert all(turn.ended for turn in engine.state.turns)


def test_an_engine_that_does_not_answer_is_503_in_bounded_time(
    host: Callable[[FakeEngine], Host],
) -> None:
    """And it gets what was left to do when it answers again. Until then the process is not alive
    to a probe either: what serves does not."""
    engine = with_peers(health_path="/")
    host(engine).patience = 0.1
    app = door(engine=engine)
    server = Server(app)
    server.get("/count")
    gate = threading.Event()

    def stuck(batch: Batch) -> None:
        gate.wait()  # and the loop with it, which has the lock

    engine.state.before_commit = stuck
    assert server.get("/count").status == 503
    assert [server.get(path).status for path in ("/", "/healthz")] == [503, 503]
    gate.set()
    engine.state.before_commit = None
    while server.get().status != 200 or app.terms.under_way:
        time.sleep(0.001)


def test_an_engine_whose_loop_has_ended_is_503(
    host: Callable[[FakeEngine], Host], caplog: pytest.LogCaptureFixture
) -> None:
    engine = with_peers(health_path="/")
    mine = host(engine)
    server = Server(door(engine=engine))
    server.get("/count")
    assert server.get("/healthz").status == 200
    loop, thread = mine._loop, mine._thread
    assert loop is not None
    assert thread is not None
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    assert "this server's engine has ended: restart the process" in caplog.text
    assert [server.get(path).status for path in ("/", "/count", "/healthz")] == [503] * 3
    with pytest.raises(SessionUnavailable):
        mine.wait(asyncio.sleep(0))


async def test_an_engine_runs_on_one_event_loop_of_a_process(member: Engine) -> None:
    """Applications that mix both kinds of middleware are told, whichever comes first."""

    async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    async def startup() -> Message:
        return {"type": "lifespan.startup"}

    async def ignore(message: Message) -> None:
        pass

    app = WSGISessionMiddleware(shop, KEY, engine=member)
    await member.start()
    with pytest.raises(InvalidSettings, match="in another thread"):
        await asyncio.to_thread(app.start)
    await member.stop()
    host = await asyncio.to_thread(app.start)
    with pytest.raises(InvalidSettings, match="in another thread"):
        await SessionMiddleware(lifespan, KEY, engine=member)({"type": "lifespan"}, startup, ignore)
    await asyncio.to_thread(host.stop)


def test_a_request_that_has_to_start_its_node_says_so(
    member: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    app = WSGISessionMiddleware(shop, KEY, engine=member)
    server = Server(app)
    assert [server.get("/count").json for _ in range(2)] == [{"n": 1}, {"n": 2}]
    assert caplog.text.count("joins its cluster with its first request") == 1
    app.start().stop()


def test_code_outside_of_requests_may_start_its_node(
    member: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """A command or a shell is no server that lacks a hook: nothing is said or counted."""
    promise = Promise((KEY,), "sessionid", 3600)
    door = MixedDoor(promise, engine=member)
    assert door.find(None, promise).session.new
    assert door.sessions_of("user:1").sessions == ()
    assert "joins its cluster" not in caplog.text
    counted = [member.events["late_start"]]
    door.start().stop()
    door.admit("", promise, secure=False, environ={}).finish()
    assert caplog.text.count("joins its cluster with its first request") == 1
    assert [*counted, member.events["late_start"]] == [0, 1]
    door.start().stop()


def test_a_child_of_a_node_with_peers_leaves_its_parents_loop_alone(member: Engine) -> None:
    """As when a handler starts a process of its own that uses the application."""
    app = WSGISessionMiddleware(shop, KEY, engine=member)
    app.start()
    server = Server(app)
    server.get("/count")

    def works() -> bool:
        counted: object = server.get("/count").json
        workers.stop()
        return counted == {"n": 2}

    in_child(works)
    assert server.get("/count").json == {"n": 3}
    app.start().stop()


def test_a_start_that_fails_can_be_tried_again(
    host: Callable[[FakeEngine], Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = with_peers()

    async def fails() -> None:
        raise InvalidSettings(["`listen` is taken"])

    app = door(engine=engine)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "start", fails)
        with pytest.raises(InvalidSettings, match="is taken"):
            app.start()
    host(engine)
    assert Server(app).get("/count").status == 200


# --- processes ---


def test_a_forked_child_starts_an_engine_of_its_own(tmp_path: Path) -> None:
    """Nothing of the parent's is used, and the session that it wrote is there."""
    app = WSGISessionMiddleware(shop, KEY, engine=alone(tmp_path))
    server = Server(app)
    server.get("/count")
    mine = app.start()

    def works() -> bool:
        counted: object = server.get("/count").json
        another = app.start() is not mine
        workers.stop()
        return counted == {"n": 2} and another

    in_child(works)
    assert server.get("/count").json == {"n": 3}
    assert app.start() is mine
    mine.stop()


def test_first_requests_that_come_at_once_have_one_engine() -> None:
    app = WSGISessionMiddleware(shop, KEY, store="memory")
    with ThreadPoolExecutor(8) as pool:
        hosts = set(pool.map(lambda _: app.start(), range(8)))
    assert len(hosts) == 1
    hosts.pop().stop()


def test_a_hook_starts_what_the_doors_of_the_process_use(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    app = door(engine=engine)
    monkeypatch.setattr(workers, "doors", {app})
    assert engine.starts == 0
    workers.start()
    workers.start()
    assert engine.starts == 1
    workers.stop()
    assert not engine.running


def test_a_hook_without_doors_starts_the_node_of_the_environment(
    host: Callable[[FakeEngine], Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = with_peers()
    mine = host(engine)
    monkeypatch.setattr(workers, "doors", set())
    monkeypatch.setattr(workers, "default_factory", lambda settings, keys: engine)
    for name, value in PEERS.items():
        monkeypatch.setenv(name, value)
    workers.start()
    assert mine.running


@pytest.mark.parametrize(
    ("options", "starts"),
    [
        ({"master": True}, False),
        ({"enable-threads": True}, True),
        ({"enable-threads": b"true"}, True),
        ({"enable-threads": b"False"}, False),
        ({"enable-threads": [True, b"0"]}, False),
        ({"threads": b"2"}, True),
        ({"threads": b"1"}, False),
    ],
)
def test_uwsgi_without_threads_is_refused_where_one_is_needed(
    member: Engine, monkeypatch: pytest.MonkeyPatch, options: dict[str, object], starts: bool
) -> None:
    """uWSGI's processes alone have the module; its options are as it tells them there."""
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(opt=options))
    host = Host(member)
    if starts:
        host.start()
        host.stop()
    else:
        with pytest.raises(InvalidSettings, match="enable-threads"):
            host.start()

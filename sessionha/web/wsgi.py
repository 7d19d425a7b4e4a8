"""The WSGI middleware: sessions for Flask, Bottle, Pyramid and any other WSGI application.

Two steps of a request touch what its engine shares with other requests: its arrival, and the commit
with what follows it. Each is one call of `Host`, whose module says in which thread it runs.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from sessionha.errors import SessionUnavailable, StoreFull
from sessionha.session.canaries import QUERY, REFUSED, Arrived, grant
from sessionha.session.carrier import Carried, carry, lay_down
from sessionha.session.cookies import SameSite
from sessionha.session.headers import HOPS, ROUTE, TOKEN
from sessionha.session.visit import Visit, opted_out, visit_of
from sessionha.web.base import (
    ALIVE,
    HEALTHZ,
    SEVERAL_HOSTS,
    UNAVAILABLE,
    Asked,
    Engine,
    Factory,
    agree,
    default_factory,
    health_pages,
    note_late_start,
    readiness,
    refusal_headers,
    refusals,
    warn_of_weak_keys,
)
from sessionha.web.canary import JSON, answer, wish_here
from sessionha.web.optout import Exclude, opt_out
from sessionha.web.threads import EngineSilent, Host, drive, host_for

log = logging.getLogger("sessionha.web")

if TYPE_CHECKING:
    from types import TracebackType
    from wsgiref.types import StartResponse, WSGIApplication

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]

Headers = list[tuple[str, str]]
Told = tuple[bool, Headers]
"""Whether the response varies by cookie, and what is added to its headers."""
OnError = Literal["discard", "commit"]

WAIT: Final = "sessionha.wait"
"""Key of the environment: runs a coroutine of sessionha to its end, `session.commit()` for one."""

_TOKEN: Final = "HTTP_" + TOKEN.upper().replace("-", "_")
_ROUTE: Final = "HTTP_" + ROUTE.upper().replace("-", "_")
_HOPS: Final = "HTTP_" + HOPS.upper().replace("-", "_")
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    503: "Service Unavailable",
}


class Startable(Protocol):
    """A door that has an engine."""

    def start(self) -> object:
        """See `WSGISessionMiddleware.start`."""


doors: weakref.WeakSet[Startable] = weakref.WeakSet()
"""Those of this process, so that a server's hook can start their engines before a request does."""


class WSGISessionMiddleware:
    """Gives every request `environ["sessionha.session"]`, a `Session`.

    Takes the arguments of `SessionMiddleware`, and as further keywords the settings of sessionha.
    `environ_key`: where the application looks for its session. `exclude`: paths ("/healthz";
    "/static/" and all below) and predicates of the environment whose requests have an empty session
    that is forgotten. `on_error`: what happens to changes when the application raises: "discard"
    them, or "commit" those to a session that exists. Responses with a 5xx status commit. `engine`:
    an engine to use instead of the one that the settings describe.

    The engine starts with the first request; a node with peers should be a member of its cluster
    before that: see `sessionha.start`, and `sessionha.gunicorn`.

    Raises:
        InvalidSettings: what is wrong with the arguments and settings, every mistake.
    """

    def __init__(
        self,
        app: WSGIApplication,
        /,  # so that no setting can be taken for it: type checkers want to know
        secret_key: object,
        session_cookie: str = "session",
        max_age: int | None = 14 * 24 * 60 * 60,
        path: str = "/",
        same_site: SameSite = "lax",
        https_only: bool = False,
        domain: str | None = None,
        partitioned: bool = False,
        *,
        environ_key: str = "sessionha.session",
        exclude: Exclude = (),
        on_error: OnError = "discard",
        engine: Engine | None = None,
        **settings: object,
    ) -> None:
        cookie = {
            "session_cookie": session_cookie, "path": path, "same_site": same_site,
            "https_only": https_only, "domain": domain, "partitioned": partitioned,
        }  # fmt: skip
        self.settings, self._keys, self.terms, self._choice = agree(
            engine, settings, secret_key, cookie, max_age, on_error, exclude
        )
        self._opts_out = opt_out(exclude)
        self.app = app
        self.environ_key = environ_key
        self.commits_errors = on_error == "commit"
        self._health = health_pages(self.settings)
        self._engine = engine
        self._factory: Factory = default_factory
        self._making = threading.Lock()  # first requests come at once
        self._host: Host | None = None
        doors.add(self)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        try:
            host = self._host
            if environ.get("QUERY_STRING", "").startswith(QUERY):
                return self._canary(environ, start_response)
            if self._health or self._opts_out is not None:
                path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
                if page := self._health.get(path):
                    return _answered(start_response, *self._probed(page), NO_STORE)[1]
                if self._opts_out is not None and self._opts_out(path, environ):
                    return self._without(environ, start_response)
            if self._choice is not None and joins_hosts(environ):
                return _answered(start_response, 400, SEVERAL_HOSTS, [])[1]
            if host is None or not host.running:
                host = self.start(late=True)
            outer = visit_of(environ.get(self.environ_key))
            visit, found = host.call(partial(self._arrived, host.engine, environ, outer))
            if not found:
                acquire(host, visit)
        except EngineSilent as error:
            refusals.say(error)
            return _refused(start_response, error)[1]
        return _Exchange(self, host, visit, environ, start_response).run()

    def _canary(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer a canary in the application's place; its session is one like any other.

        Raises:
            EngineSilent: it does not answer.
        """
        host = self._host
        if host is None or not host.running:
            host = self.start(late=True)
        wish = wish_here(host.engine, environ["QUERY_STRING"])
        if wish is None:
            return _answered(start_response, 403, REFUSED, NO_STORE)[1]
        arrived = arrived_with(environ, self.terms.attributes.path)

        def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
            visit = visit_of(environ[self.environ_key])
            assert visit is not None, "the request runs"
            body = host.call(partial(answer, host.engine, visit, arrived))
            grant(visit.session, wish)
            return _answered(start_response, 200, body, NO_STORE, media_type=JSON)[1]

        twin = copy(self)
        twin.app, twin._opts_out = application, None
        return twin({**environ, "QUERY_STRING": ""}, start_response)

    def _without(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request that is opted out."""
        before = environ.get(self.environ_key)
        visit = opted_out(self.made_engine(), self.terms)
        carried = carry(visit)
        try:
            environ[self.environ_key] = visit.session
            environ[WAIT] = drive  # what there is to wait for is refused at once
            return self.app(environ, start_response)
        finally:
            lay_down(carried)
            visit.leave()
            if before is not None:
                environ[self.environ_key] = before

    def _probed(self, page: str) -> tuple[int, bytes]:
        """Status and body of a health page; whatever it is, an engine that runs must answer. Where
        nothing else starts one, the question whether it is ready does.

        Raises:
            EngineSilent: it does not.
        """
        host = self._host
        if host is None and page == HEALTHZ:
            return ALIVE
        if host is None or not host.running:
            host = self.start(late=True)
        engine = host.engine
        return host.call(lambda: ALIVE if page == HEALTHZ else readiness(engine))

    def start(self, *, late: bool = False) -> Host:
        """Start the engine in this process, unless it runs. `late`: a request waits for it.

        Raises:
            StoreError, InvalidSettings: what is wrong and the remedy.
        """
        engine = self.made_engine()
        if not engine.running:
            warn_of_weak_keys(self._keys)
        host = host_for(engine)
        if host.start() and late:
            note_late_start(engine)
        self._host = host
        return host

    def made_engine(self) -> Engine:
        """The engine, made if need be; it may not run."""
        with self._making:
            if self._engine is None:
                self._engine = self._factory(self.settings, self._keys)
            return self._engine

    def _arrived(
        self, engine: Engine, environ: dict[str, Any], outer: Visit | None
    ) -> tuple[Visit, bool]:
        """The visit of a request, and whether its session was found at once."""
        terms, header = self.terms, environ.get("HTTP_COOKIE")
        cookies = [header] if header else []
        if self._choice is not None:
            terms, instead = self._choice.choose(asked_of_environ(environ), outer)
            cookies = cookies if instead is None else instead
        secure = environ.get("wsgi.url_scheme") == "https"
        visit = Visit(engine, terms, cookies, secure=secure, outer=outer)
        try:
            return visit, visit.arrive()
        except BaseException:
            visit.leave()
            raise


def asked_of_environ(environ: Mapping[str, Any]) -> Asked:
    """What of a request decides about its terms."""
    return Asked(
        environ.get("HTTP_HOST", ""),
        environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""),
        environ.get(_TOKEN),
        environ.get(_ROUTE, ""),
    )


def arrived_with(environ: Mapping[str, Any], session_path: str = "") -> Arrived:
    """What a canary came with. `session_path`: the path attribute of the session's cookie."""
    header = environ.get("HTTP_COOKIE")
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return Arrived([header] if header else [], path, environ.get(_HOPS, ""), session_path)


def joins_hosts(environ: Mapping[str, Any]) -> bool:
    """Whether the server has joined several Host headers to one: see `SEVERAL_HOSTS`."""
    return "," in environ.get("HTTP_HOST", "")


class _Exchange:
    """One request and its response, whose start is held back until the session is committed.

    It is the iterable that the server gets, unless the response is complete when the application
    returns.
    """

    _held: tuple[str, Headers] | None = None
    """What the application started the response with."""
    _started = False
    """Whether the server knows of it, or of 503 in its place."""
    _refused = False
    _failed = False
    _silent = False
    """Whether the engine did not answer in time."""
    _over = False
    _body: Iterable[bytes] = ()

    def __init__(
        self,
        door: WSGISessionMiddleware,
        host: Host,
        visit: Visit,
        environ: dict[str, Any],
        start_response: StartResponse,
    ) -> None:
        self._door = door
        self._host = host
        self._visit = visit
        self._environ = environ
        self._start_response = start_response
        self._send: Callable[[bytes], object] = _nowhere
        self._items: Iterator[bytes] = iter(())
        self._before: object = environ.get(door.environ_key)
        self._carried: Carried = carry(visit)

    def run(self) -> Iterable[bytes]:
        """Call the application. What it raises is raised here, or answered with 503."""
        environ, session = self._environ, self._visit.session
        try:
            if session.failure is None:
                session.as_dict()  # its store from now on, so that it is soon known to be unchanged
            environ[self._door.environ_key] = session
            environ[WAIT] = self._host.wait
            body = self._door.app(environ, self._hold)
            complete = self._is_complete(body)
            if not complete:
                self._body, self._items = body, iter(body)
                return self
        except BaseException as error:
            if not self._is_answered(error):
                self._leave()
                raise
            return self
        try:
            self._end() if self._started else self._start()
        finally:
            self._leave()
        return self if self._refused else body

    def _is_complete(self, body: Iterable[bytes]) -> bool:
        """Whether the application runs no more: the server may have the body as it is, and send
        a file in its own way."""
        if type(body) in (list, tuple):
            return True
        wrapper = self._environ.get("wsgi.file_wrapper")
        return isinstance(wrapper, type) and isinstance(body, wrapper)

    def _hold(
        self, status: str, headers: Headers, exc_info: ExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        """The application's `start_response`."""
        if self._started and not self._refused:
            return self._start_response(status, headers, exc_info)  # raises the application's error
        if self._held is not None and exc_info is None:
            raise AssertionError("start_response was called a second time without exc_info")
        self._held = status, headers
        return self._write

    def _write(self, data: bytes) -> object:
        if not self._started:
            self._start()
            data = next(self._items, data)  # there are items only if the response was refused
        elif self._refused:
            raise _ResponseRefused("the response was replaced by 503")
        return self._send(data)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            item = next(self._items)
        except StopIteration:
            if self._started:
                raise
            self._start()
            return next(self._items)  # there is none, unless the response was refused
        except BaseException as error:
            if not self._is_answered(error):
                self._failed = True
                raise
            return next(self._items)
        if not self._started:
            self._start()
            if self._refused:
                return next(self._items)
        return item

    def close(self) -> None:
        """The server is done with the response, or gave up."""
        if self._over:
            return
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
            if not self._failed:
                if not self._started and self._held is not None:
                    self._start()
                self._end()
        finally:
            self._leave()

    # --- the session ---

    def _start(self) -> None:
        """Commit, and tell the server how the response starts.

        Raises:
            SessionTooLarge, ElementNotEncodable: the application's mistake.
        """
        if self._held is None:
            raise AssertionError("the application did not call start_response before the body")
        status, headers = self._held
        try:
            vary, added = self._commit()
        except SessionUnavailable as error:
            refusals.say(error)
            self._silent = isinstance(error, EngineSilent)
            self._refuse(error)
        except StoreFull as error:
            refusals.say(error)
            self._refuse(SessionUnavailable())
        else:
            self._started = True
            headers = [*headers, *added]
            if vary:
                headers = _varying(headers, self._visit.terms.vary)
            self._send = self._start_response(status, headers)

    def _commit(self) -> Told:
        host, visit = self._host, self._visit
        if host.looped and (told := host.call(partial(_told_at_once, visit))) is not None:
            return told
        return host.wait(_told(visit))

    def _end(self) -> None:
        """Commit what was changed after the response had started; failures are logged."""
        host, visit = self._host, self._visit
        if self._refused:
            return
        try:
            if not host.looped or not host.call(visit.are_idle):
                host.wait(visit.end())
        except EngineSilent as error:
            self._silent = True
            log.warning(
                "a session's change after the start of its response was not stored: %s", error
            )

    def _is_answered(self, error: BaseException) -> bool:
        """Whether the client has an answer, or gets one now, though the application raised this."""
        if self._refused:
            log.debug("the application gave up after its response was refused", exc_info=error)
            return True
        if isinstance(error, SessionUnavailable) and not self._started:
            refusals.say(error)
            self._refuse(error)
            return True
        if self._door.commits_errors and isinstance(error, Exception):
            self._end()
        return False

    def _refuse(self, why: SessionUnavailable) -> None:
        """Answer 503, whatever the application answers."""
        self._started = self._refused = True
        told: Headers = []
        self._tidy(partial(_discard, self._visit, told))
        self._send, body = _refused(self._start_response, why, told)
        self._items = iter(body)

    def _leave(self) -> None:
        self._over = True
        lay_down(self._carried)
        if self._before is not None:  # the application shares its environment with a door outside
            self._environ[self._door.environ_key] = self._before
        self._tidy(self._visit.leave)

    def _tidy(self, step: Callable[[], None]) -> None:
        """Do what the response does not depend on. Of an engine that did not answer it is asked,
        and not waited for: the server may be about to kill this worker for its slowness."""
        if not self._silent:
            try:
                self._host.call(step)
            except EngineSilent:
                self._silent = True
            else:
                return
        self._host.post(step)


class _ResponseRefused(OSError):
    """What an application that still writes is told, as after a disconnect."""


def acquire(host: Host, visit: Visit) -> None:
    """Let a request thread wait for its session. Raises EngineSilent."""
    try:
        host.wait(visit.acquire())
    except EngineSilent:
        host.post(visit.leave)  # should it have gone on all the same
        raise


def _discard(visit: Visit, told: Headers) -> None:
    """Drop what is not committed, and tell what is."""
    visit.discard()
    told += visit.remains()


async def _told(visit: Visit) -> Told:
    await visit.respond()
    return visit.vary, visit.headers()


def _told_at_once(visit: Visit) -> Told | None:
    """The same where nothing has to be waited for; else None."""
    return drive(_told(visit)) if visit.are_idle() else None


NO_STORE: Final = [("cache-control", "no-store")]

Answered = tuple[Callable[[bytes], object], list[bytes]]
"""The server's `write`, and the body."""


def _answered(
    start_response: StartResponse,
    status: int,
    body: bytes,
    headers: Headers,
    *,
    media_type: str = "text/plain; charset=utf-8",
) -> Answered:
    about = [
        ("content-type", media_type),
        ("content-length", str(len(body))),
    ]
    return start_response(f"{status} {_REASONS[status]}", [*about, *headers]), [body]


def _refused(
    start_response: StartResponse, why: SessionUnavailable, told: Sequence[tuple[str, str]] = ()
) -> Answered:
    return _answered(start_response, 503, UNAVAILABLE, [*refusal_headers(why), *told])


def _varying(headers: Headers, fields: str) -> Headers:
    """The headers with these fields in `Vary`, beside what the application put there."""
    for index, (name, value) in enumerate(headers):
        if len(name) == 4 and name.lower() == "vary":
            told = {part.strip().lower() for part in value.split(",")}
            missing = [each for each in fields.split(", ") if each.lower() not in told]
            if "*" in told or not missing:
                return headers
            joined = ", ".join([value, *missing])
            return [*headers[:index], (name, joined), *headers[index + 1 :]]
    return [*headers, ("vary", fields)]


def _nowhere(data: bytes) -> None:
    """Where nothing is sent, before the server has given its own function."""

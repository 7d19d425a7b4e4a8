"""A door for frameworks that mix threads and event loops in one process, as Django does.

The engine is where it is for request threads: on a loop of its own if it needs one. So a session
can be used from any thread and from any loop, and also outside of requests, by its ID: a view may
run in a thread of a server's loop, or on a loop of a server's thread, and tests make loops at will.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

from sessionha.errors import InvalidSettings, SessionError
from sessionha.identity import new_group
from sessionha.session.carrier import current_session
from sessionha.session.cookies import BareCookies
from sessionha.session.session import Session
from sessionha.session.subject import checked_subject, log_out, log_out_one
from sessionha.session.visit import Told, Visit, visit_of
from sessionha.state.base import LoggedOut, Siblings
from sessionha.web.base import Agreed, Choice
from sessionha.web.door import FAILURES, Door, Exchange, Promise, SeveralHosts, told_of
from sessionha.web.threads import EngineSilent, Host
from sessionha.web.wsgi import acquire, asked_of_environ, joins_hosts

T = TypeVar("T")

NOTHING_TOLD: Final = Told([], [])


class MixedDoor(Door):
    """The way of such an application to its sessions.

    Its framework writes the main session's cookie, with the session's ID and nothing else in it,
    and extends sessions when it says so: a use alone does not.

    Raises:
        InvalidSettings: what is wrong with the promise and the settings, every mistake.
    """

    def _agree(self, promise: Promise) -> Agreed:
        agreed = super()._agree(promise)
        settings = agreed.settings
        if settings.session_in != "cookies":
            raise InvalidSettings(
                [
                    f"`session_in` = {settings.session_in!r} is not for this framework, which"
                    " writes the session's cookie itself: leave it at cookies"
                ]
            )
        terms = replace(
            agreed.terms,
            cookies=BareCookies(agreed.keys, promise.session_cookie),
            bare=True,
            touches=False,
            seen={},
            named={},
            under_way={},
        )
        choice = None if agreed.choice is None else Choice(settings, terms)
        agreed = self._promised[promise] = agreed._replace(terms=terms, choice=choice)
        return agreed

    @property
    def running(self) -> bool:
        """Whether its engine runs in this very process."""
        return self._host is not None and self._host.running

    def has_siblings(self) -> bool:
        """Whether another process on this machine serves the same sessions. Where none does, what
        is no part of a server, such as a command, would start a node by itself: ask before.

        Raises:
            StoreError: there is no place for the store.
        """
        return self._made().has_siblings()

    # --- requests ---

    def opts_out(self, path: str, environ: Mapping[str, Any]) -> bool:
        """Whether a request shall have no session of its client (`exclude`, and probes)."""
        return self._is_without(path, environ)

    def admit(
        self, cookies: str, promise: Promise, *, secure: bool, environ: Mapping[str, Any]
    ) -> MixedExchange:
        """The exchange of a request with this `Cookie` header, which may be empty. Of `environ`
        count `HTTP_HOST`, `SCRIPT_NAME` and `PATH_INFO`. A session that cannot be had raises
        SessionUnavailable when it is used.

        Raises:
            InvalidSettings: the promise, or the first start.
        """
        try:
            host, visit, found = self._visited(cookies, promise, secure, environ)
            if not found:
                acquire(host, visit)
        except (EngineSilent, SeveralHosts) as error:
            return MixedExchange(self, None, None, error)
        return MixedExchange(self, host, visit)

    async def admit_async(
        self, cookies: str, promise: Promise, *, secure: bool, environ: Mapping[str, Any]
    ) -> MixedExchange:
        """The same for a coroutine, on whatever event loop."""
        try:
            host, visit, found = self._visited(cookies, promise, secure, environ)
            if not found:
                await _awaited(host, visit)
        except (EngineSilent, SeveralHosts) as error:
            return MixedExchange(self, None, None, error)
        return MixedExchange(self, host, visit)

    def _visited(
        self, cookies: str, promise: Promise, secure: bool, environ: Mapping[str, Any]
    ) -> tuple[Host, Visit, bool]:
        agreed = self._agreed(promise)
        if agreed.choice is not None and joins_hosts(environ):  # as also ASGIRequest does
            raise SeveralHosts
        host = self._running_host(late=True)
        headers = [cookies] if cookies else []
        asked = partial(asked_of_environ, environ)
        arrive = partial(self._arrived, host.engine, agreed, headers, secure, asked)
        return host, *host.call(arrive)

    def _agreed(self, promise: Promise) -> Agreed:
        return self._promised.get(promise) or self._agree(promise)

    def _running_host(self, *, late: bool = False) -> Host:
        """`late`: for a server's request. A command or a shell begins with what it looks for."""
        host = self._host
        return host if host is not None and host.running else self.start(late=late)

    # --- outside of requests ---

    def is_ours(self, session_id: str, promise: Promise) -> bool:
        """Whether this is the ID of a session that is, or was, here: nobody else makes such."""
        return self._agreed(promise).terms.cookies.ids.group(session_id) is not None

    def new_id(self, promise: Promise) -> str:
        """The ID of no session."""
        return self._agreed(promise).terms.cookies.ids.new(new_group())

    def find(
        self, session_id: str | None, promise: Promise, beside: MixedExchange | None = None
    ) -> MixedExchange:
        """The session with this ID, for code that is not in its request; a new one, if there is
        none. It counts as no request, takes no turn, and need not be left.

        `beside`: whose virtual server it is in; None: in that of the request in which this is
        called, else in the one that stands for all that is not said (`virtual_server`).

        Raises:
            InvalidSettings: the promise, or the first start.
        """
        try:
            host, visit, found = self._sought(session_id, promise, beside)
            if not found:
                acquire(host, visit)
        except EngineSilent as error:
            return MixedExchange(self, None, None, error, carried=False)
        return MixedExchange(self, host, visit, carried=False)

    async def find_async(
        self, session_id: str | None, promise: Promise, beside: MixedExchange | None = None
    ) -> MixedExchange:
        """The same for a coroutine, on whatever event loop."""
        try:
            host, visit, found = self._sought(session_id, promise, beside)
            if not found:
                await _awaited(host, visit)
        except EngineSilent as error:
            return MixedExchange(self, None, None, error, carried=False)
        return MixedExchange(self, host, visit, carried=False)

    def _sought(
        self, session_id: str | None, promise: Promise, beside: MixedExchange | None
    ) -> tuple[Host, Visit, bool]:
        host, agreed = self._running_host(), self._agreed(promise)
        terms = agreed.terms
        cookies = []
        if session_id is not None and self.is_ours(session_id, promise):
            cookies.append(f"{terms.cookies.name}={session_id}")
        server = terms.virtual_server
        if agreed.choice is not None:
            server = _server_of(agreed, beside) or server
        terms = replace(terms, virtual_server=server, session_requests=0, seen={}, named={})
        visit = Visit(host.engine, terms, cookies)
        return host, visit, host.call(visit.arrive)

    # --- the sessions of a user ---

    def sessions_of(self, subject: str) -> Siblings:
        """The living sessions of a subject on every node, and the nodes that could not be asked.

        Raises:
            TypeError, ValueError: it cannot be a subject.
        """
        host = self._running_host()
        return host.wait(host.engine.state.sessions_of(checked_subject(subject)))

    def revoke(self, subject: str, session: str | None = None) -> LoggedOut:
        """End every session of a subject; with `session`, the one that `sessions_of` shows with
        this ID.

        Raises:
            TypeError, ValueError: it cannot be a subject.
            SessionUnavailable, StoreFull: nothing was changed.
        """
        host = self._running_host()
        state, subject = host.engine.state, checked_subject(subject)
        work = log_out(state, subject) if session is None else log_out_one(state, subject, session)
        return host.wait(work)


class MixedExchange(Exchange):
    """A session in the hands of such a framework; `carried`: it is that of a request.

    Unlike those of other exchanges the session may be used and committed on after `leave`.
    """

    def __init__(
        self,
        door: MixedDoor,
        host: Host | None,
        visit: Visit | None,
        failure: SessionError | None = None,
        *,
        carried: bool = True,
    ) -> None:
        super().__init__(door, host, visit, failure)
        if not carried:
            self._lay_down()
        self._kept = super().session

    @property
    def session(self) -> Session:
        """The session."""
        return self._kept

    @property
    def virtual_server(self) -> str | None:
        """Where the session is; None: there is only a failure."""
        return None if self._visit is None else self._visit.terms.virtual_server

    @property
    def changed(self) -> bool:
        """Whether something of the session is not committed, what was changed in place included."""
        session = self._kept
        if session.failure is not None or not session.accessed or session.is_untouched():
            return False
        return self._host is None or self._visit is None or self._host.call(self._visit.is_changed)

    @property
    def may_begin(self) -> bool:
        """Whether there is no session so far, and one may begin: its cookie can still be sent."""
        visit = self._visit
        return visit is not None and self._kept.new and not (visit.started or visit.left)

    @property
    def was_overtaken(self) -> bool:
        """Whether the session that the request brought was ended or renewed a moment ago by
        another request: the client may have a newer cookie by now, which must not be cleared."""
        visit = self._visit
        if visit is None or visit.ticket is None or self._kept.failure is not None:
            return False
        return not (visit.loaded or visit.gone)

    def save(self) -> bool:
        """Commit the session now; False: there was nothing to do. Raises as `Session.commit`."""
        return self.wait(self._kept.commit()) is not None

    async def asave(self) -> bool:
        """The same for a coroutine."""
        return await self.awaited(self._kept.commit()) is not None

    def discard(self) -> None:
        """Drop what is not committed: the response is an error."""
        if self._visit is not None:
            self._tidy(self._visit.discard)

    def discard_session(self) -> None:
        """The same, of the main session alone: the framework has put another in its place."""
        if self._visit is not None:
            self._tidy(self._kept.discard)

    async def acommit(self) -> Told:
        """As `commit`, for a coroutine."""
        host, visit = self._host, self._visit
        if visit is None or host is None:
            return self._tell(NOTHING_TOLD)
        try:
            told = host.call(visit.told_if_idle) if host.serial else visit.told_if_idle()
            if told is not None:
                return self._tell(told)
            return self._tell(await host.awaited(told_of(visit)))
        except FAILURES:
            self._tell(NOTHING_TOLD)
            self._tidy(partial(self._drop_changes, visit))
            raise

    async def aend(self) -> None:
        """As `end`, for a coroutine."""
        host, visit = self._host, self._visit
        if host is not None and visit is not None and not (self.left or host.call(visit.are_idle)):
            await host.awaited(visit.end())

    def finish(self) -> None:
        """`end` and `leave`: the response is out. It may be called again."""
        visit = self._visit
        if self.left or visit is None or not visit.are_idle():
            self.end()
            self.leave()
            return
        self.left = True
        self._lay_down()
        self._door.drop(visit)  # let go under the lock that the next request takes anyway

    async def awaited(self, work: Coroutine[Any, Any, T]) -> T:
        """As `wait`, for a coroutine on whatever event loop."""
        if self._host is None:
            work.close()
            raise self._kept.refused()
        return await self._host.awaited(work)


def _server_of(agreed: Agreed, beside: MixedExchange | None) -> str | None:
    """The virtual server of the request that code runs for; None: it runs for none of these."""
    if beside is not None:
        return beside.virtual_server
    try:
        visit = visit_of(current_session())
    except LookupError:
        return None
    if visit is None or visit.terms.cookies is not agreed.terms.cookies:
        return None  # the request is another door's
    return visit.terms.virtual_server


async def _awaited(host: Host, visit: Visit) -> None:
    try:
        await host.awaited(visit.acquire())
    except BaseException:
        host.post(visit.leave)
        raise

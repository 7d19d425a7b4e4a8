"""Which visit the running code belongs to: a context variable, as tasks and threads inherit it.

A task keeps what it inherited for as long as it runs. So it is the visit that knows when it is
over, and nobody can be given the session of a request that came later.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from sessionha.session.session import Session


class Carriable(Protocol):
    """A visit, or what leads to one."""

    @property
    def session(self) -> Session:
        """The session."""

    @property
    def left(self) -> bool:
        """Whether the request is over; LookupError: it is not even known any more."""


Carried = Token[Carriable | None]

_carried: ContextVar[Carriable | None] = ContextVar("sessionha", default=None)

NO_REQUEST: Final = (
    "no session here: code that sessionha.SessionMiddleware is around has one, for the time of a"
    " request; a thread needs `asyncio.to_thread` or a copied context to know it"
)


def carry(visit: Carriable) -> Carried:
    """Let the code that runs from here on find its visit; hand the result to `lay_down`."""
    return _carried.set(visit)


def lay_down(carried: Carried) -> None:
    """Whoever carried something before carries it again."""
    try:  # noqa: SIM105 -- `suppress` takes longer, on every request's way
        _carried.reset(carried)
    except ValueError:
        pass  # the garbage collector closes an abandoned request in some other context


def current_session() -> Session:
    """The session of the request or websocket that this code runs for.

    It is found in everything that a request calls, awaits or starts: functions, tasks, and threads
    of `asyncio.to_thread`, anyio and Starlette's `run_in_threadpool` (an executor's `submit` takes
    no context along). Of two middlewares around each other it is the inner one's.

    Raises:
        LookupError: no request is being served here, or the one that started this task is over.
    """
    visit = _carried.get()
    if visit is None:
        raise LookupError(NO_REQUEST)
    if visit.left:
        raise LookupError(
            "the request that started this task is over: await the task in the request, or hand it"
            " the values that it needs"
        )
    return visit.session

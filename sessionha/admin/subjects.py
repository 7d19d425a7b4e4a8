"""`/v1/subjects/…`: where somebody is logged in, and their log-out, for operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from sessionha.engine import Engine
from sessionha.errors import SessionUnavailable, StoreFull
from sessionha.session.subject import checked_subject, log_out, log_out_one

NO_STORE: Final = {"cache-control": "no-store"}


@dataclass(frozen=True, slots=True)
class SubjectsPage:
    """The endpoints of one running engine. Answers never repeat the subject."""

    engine: Engine

    async def show(self, request: Request) -> Response:
        """GET: the subject's living sessions, and who could not be asked."""
        subject = _subject(request)
        if isinstance(subject, Response):
            return subject
        found = await self.engine.state.sessions_of(subject)
        sessions: list[dict[str, Any]] = []
        for each in found.sessions:
            facts = each._asdict()
            del facts["current"]  # nobody's request
            sessions.append(facts)
        answer = {"sessions": sessions, "unreachable": found.unreachable, "more": found.more}
        return JSONResponse(answer, headers=NO_STORE)

    async def end(self, request: Request) -> Response:
        """DELETE: end all of the subject's sessions, or with `?session=` the one with this ID."""
        subject = _subject(request)
        if isinstance(subject, Response):
            return subject
        name, state = request.query_params.get("session"), self.engine.state
        try:
            if name is None:
                done = await log_out(state, subject)
            else:
                done = await log_out_one(state, subject, name)
        except (SessionUnavailable, StoreFull) as error:
            return PlainTextResponse(f"nobody was logged out: {error}\n", 503, NO_STORE)
        return JSONResponse(done._asdict(), headers=NO_STORE)


def _subject(request: Request) -> str | Response:
    try:
        return checked_subject(request.path_params["subject"])
    except ValueError as error:
        return PlainTextResponse(f"{error}\n", 400, NO_STORE)

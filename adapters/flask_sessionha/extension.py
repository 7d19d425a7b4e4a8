"""`Session(app)`: what Flask calls an extension, and Flask-Session has under the same name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Response, request, session

from flask_sessionha.commands import commands
from flask_sessionha.interface import SessionInterface
from flask_sessionha.logins import follow_logins
from flask_sessionha.shared import CANARY, Extension, canary_of, check
from sessionha import SessionUnavailable, refusal

if TYPE_CHECKING:
    from flask import Flask


class Session(Extension["Flask"]):
    """Gives an application sessionha's sessions: `Session(app)`, or `Session().init_app(app)`.

    `former`: what kept the sessions before (`FormerCookies`, `FormerRedis`); `subject_of`: whose
    each of those is, by its data: without it, the user of Flask-Login. `exclude`: paths
    ("/healthz"; "/static/" and all below) and predicates of the WSGI environment whose requests
    have an empty session that is forgotten. Further keywords are settings of sessionha, as in
    `app.config["SESSIONHA_…"]` and in the environment. Use `flask.session`, as ever.

    Raises:
        InvalidSettings: every mistake; where the secret key is set later, with the first request.
    """

    def init_app(self, app: Flask) -> None:
        """Give this application sessions; its configuration should be complete."""
        interface = SessionInterface(**self._given)
        check(interface, app)
        opened = interface.open(app)
        app.session_interface = interface
        app.extensions["sessionha"] = interface
        app.register_error_handler(SessionUnavailable, _unavailable)
        if opened is None or opened[0].health_paths:
            app.before_request(_Health(interface, app))
        app.before_request(_canary)
        app.cli.add_command(commands(app.config, self._settings))
        follow_logins(app)


class _Health:
    """Answers probes at `health_path`, before anything else of the application."""

    def __init__(self, interface: SessionInterface, app: Flask) -> None:
        self._interface = interface
        self._app = app

    def __call__(self) -> Response | None:
        door = self._interface.doors.known(self._app)
        if door is None or not door.health_paths:
            return None
        answer = door.health(f"{request.root_path}{request.path}")
        if answer is None:
            return None
        return Response(
            answer[1], answer[0], {"cache-control": "no-store"}, content_type="text/plain"
        )


def _canary() -> Response | None:
    """Answers canaries of `sessionha doctor`, before anything else of the application."""
    if not request.query_string.startswith(CANARY):
        return None
    answer = canary_of(session, request.environ)
    return None if answer is None else Response(*answer)


def _unavailable(error: Any) -> Response:
    answer = refusal(error)
    return Response(answer.body, answer.status, answer.headers)

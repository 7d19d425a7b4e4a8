"""A WSGI application as a user writes it."""

from collections.abc import Iterable
from wsgiref.simple_server import make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import sessionha
from sessionha import Session, WSGISessionMiddleware


def count(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    session: Session = environ["sessionha.session"]
    session["visits"] = session.get("visits", 0) + 1
    environ["sessionha.wait"](session.commit())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(session["visits"]).encode()]


application: WSGIApplication = WSGISessionMiddleware(
    count,
    secret_key="4f1c8e0b7a2d96e35c0f8a1b7d4e29c6",
    session_cookie="session",
    max_age=None,
    environ_key="sessionha.session",
    on_error="commit",
    health_path="/",
)
sessionha.start()
make_server("127.0.0.1", 8000, application).serve_forever()

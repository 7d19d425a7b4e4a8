"""The contract's application behind the WSGI middleware, with no framework."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from sessionha import Session, WSGISessionMiddleware
from tests.contract.acts import SECRET_KEY, act, gate

if TYPE_CHECKING:
    from wsgiref.types import StartResponse

HEADERS = [("Content-Type", "application/json")]


def _application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    name = environ["PATH_INFO"].strip("/")
    parameters = dict(parse_qsl(environ["QUERY_STRING"]))
    session: Session = environ["sessionha.session"]
    if name == "static":
        start_response("200 OK", HEADERS)
        return [b'"static"']
    done = act(name, parameters, session)
    if name == "slow":
        gate(parameters).wait()
        done = act(parameters["then"], parameters, session)
    if done.then == "renew":
        session.renew_id()
    elif done.then == "destroy":
        session.destroy()
    start_response("200 OK", HEADERS)
    if name == "stream":
        return _stream(session, parameters["token"])
    body = json.dumps(done.said).encode()
    return _Afterwards(body, session, parameters["token"]) if name == "background" else [body]


def _stream(session: Session, token: str) -> Iterator[bytes]:
    yield b"one "
    session[token] = True
    yield b"two"


class _Afterwards:
    """A body whose end changes the session, as frameworks call what waits for a response."""

    def __init__(self, body: bytes, session: Session, token: str) -> None:
        self._body = iter([body])
        self._session = session
        self._token = token

    def __iter__(self) -> Iterator[bytes]:
        return self._body

    def close(self) -> None:
        self._session[self._token] = True


app = WSGISessionMiddleware(_application, SECRET_KEY)

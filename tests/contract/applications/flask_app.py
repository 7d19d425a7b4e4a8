"""The contract's application in Flask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, jsonify, request, session, stream_with_context

from flask_sessionha import Session
from tests.contract.acts import SECRET_KEY, act, gate

app = Flask(__name__, static_folder=None)
app.config.update(SECRET_KEY=SECRET_KEY, SESSION_COOKIE_SAMESITE="Lax")
Session(app)


@app.get("/static")
def static() -> Any:
    return jsonify("static")


@app.get("/slow")
def slow() -> Any:
    act("slow", request.args, session)
    gate(request.args).wait()
    return jsonify(act(request.args["then"], request.args, session).said)


@app.get("/stream")
def stream() -> Response:
    def body() -> Iterator[str]:
        yield "one "
        session[request.args["token"]] = True
        yield "two"

    return Response(stream_with_context(body()), mimetype="text/plain")


@app.get("/background")
def background() -> Response:
    mine: Any = session
    kept, token = mine._get_current_object(), request.args["token"]
    response = jsonify(None)
    response.call_on_close(lambda: kept.update({token: True}))
    return response


@app.get("/<name>")
def any_other(name: str) -> Any:
    done = act(name, request.args, session)
    interface: Any = app.session_interface
    if done.then == "renew":
        interface.regenerate(session)
    elif done.then == "destroy":
        session.clear()
    return jsonify(done.said)

"""Requests that shall have no session of their client: by path, or by a predicate.

Such a request has a session all the same, an empty one, so that what looks into it works on. It is
forgotten with the response: nothing is looked for, stored or sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from sessionha.errors import InvalidSettings

Request = Mapping[str, Any]
"""An ASGI scope or a WSGI environment."""

Exclude = Iterable[str | Callable[[Any], object]]
"""Paths and predicates, see `opt_out`."""

OptsOut = Callable[[str, Request], bool]
"""Whether a request for this path is opted out."""

_BOT: Final = re.compile(
    r"(?i)(?<!cu)bot\b|crawl|spider|slurp|externalhit|(?:uptime|site|http)[ -]?monitor|kube-probe"
)
"""Words by which programs say what they are. CUBOT makes telephones."""


def opt_out(exclude: Exclude) -> OptsOut | None:
    """What decides; None: nothing is opted out.

    An entry is a path ("/healthz": this one; "/static/", with a slash at the end: all below), or a
    function that is given the ASGI scope or the WSGI environment and says yes or no.

    Raises:
        InvalidSettings: what is wrong with the entries, every mistake.
    """
    if problems := [*_mistakes(exclude)]:
        raise InvalidSettings(problems)
    entries = [*exclude]
    if not entries:
        return None
    exactly = frozenset(each for each in entries if isinstance(each, str) and each[-1] != "/")
    below = tuple(each for each in entries if isinstance(each, str) and each[-1] == "/")
    predicates = tuple(each for each in entries if not isinstance(each, str))

    def opts_out(path: str, request: Request) -> bool:
        if path in exactly or path.startswith(below):
            return True
        return any(predicate(request) for predicate in predicates)

    return opts_out


def _mistakes(exclude: object) -> Iterable[str]:
    if isinstance(exclude, str) or not isinstance(exclude, Iterable):
        yield f"`exclude` {exclude!r} is no list: write ['/static/', '/healthz']"
        return
    for each in exclude:
        if isinstance(each, str) and not each.startswith("/"):
            yield f"`exclude` has {each!r}, which is no path: paths begin with `/`"
        elif not isinstance(each, str) and not callable(each):
            yield f"`exclude` has {each!r}, which is neither a path nor a function"


def preflights(request: Request) -> bool:
    """Whether a request is the question that browsers ask before one of another origin (CORS).

    They come without cookies, so each would begin a session where the application stores something
    in every request. For `exclude`.
    """
    method = request.get("method") or request.get("REQUEST_METHOD")
    return method == "OPTIONS" and bool(_header(request, "access-control-request-method"))


def bots(request: Request) -> bool:
    """Whether a request says that it comes from a crawler or a monitor, by its `User-Agent`.

    They keep no cookies, so each of their requests would begin a session. For `exclude`; it is no
    defence against programs that say something else.
    """
    return _BOT.search(_header(request, "user-agent")) is not None


def _header(request: Request, name: str) -> str:
    headers = request.get("headers")
    if headers is None:
        return str(request.get("HTTP_" + name.upper().replace("-", "_"), ""))
    wanted = name.encode()
    return next((value.decode("latin-1") for key, value in headers if key == wanted), "")

"""Sessions in headers, for clients that keep no cookies: what they send, and what they are told.

A client sends back the last `Sessionha-Token` and `Sessionha-Route` that it was told. A token is
signed for this use alone: it is no cookie, and a cookie is no token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from sessionha.session.headers import TOKEN
from sessionha.session.terms import Terms

NONE: Final = "none"
"""A client without a session says so, and is told so when its session has ended."""

_BETWEEN: Final = "~"
"""Stands between the tokens of several sessions: `<token>~cart=<token>`, the main one first."""

EITHER: Final = f"Cookie, {TOKEN.title()}"
"""What a response depends on where clients may use both."""


def in_headers(terms: Terms) -> Terms:
    """The terms of the same door for clients that keep no cookies."""
    cookies = terms.cookies.of_use("header")
    return replace(terms, cookies=cookies, in_headers=True, seen={}, named={})


def as_cookies(terms: Terms, token: str, route: str) -> list[str]:
    """What a request's headers say, as a `Cookie` header says it."""
    name = terms.cookies.name
    main, *others = token.split(_BETWEEN)
    pairs = [f"{name}-{other}" for other in others]
    if main and main != NONE:
        pairs.append(f"{name}={main}")
    if route:
        pairs.append(f"{terms.route_attributes.name}={route}")
    return ["; ".join(pairs)] if pairs else []


def token_of(tokens: Iterable[tuple[str, str]]) -> str:
    """The header's value: names of sessions, empty for the main one, and their tokens."""
    known = dict(tokens)
    main = known.pop("", NONE)
    return _BETWEEN.join([main, *(f"{name}={text}" for name, text in known.items())])

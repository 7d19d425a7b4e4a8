"""Asks a node's administration, with the token that the cluster secret gives."""

from __future__ import annotations

import json
from http.client import HTTPException
from typing import Any, Final, Literal
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from sessionha.admin.tokens import REALM, Role, tokens
from sessionha.errors import InvalidSettings
from sessionha.settings import ADMIN_PORT, Settings

TIMEOUT: Final = 5.0
"""Seconds for what the node has in memory."""

ANSWER_BYTES: Final = 4 << 20
"""More is no answer: a member takes about 200 bytes, and a cluster has at most 4,096."""

REASON_BYTES: Final = 1024


class NoAnswer(Exception):
    """The administration did not answer as it should; the words name the address and a remedy."""


class _Stay(HTTPRedirectHandler):
    """A token goes to the address that was asked for and to no other."""

    def redirect_request(self, *_: Any) -> None:
        """No other request is made."""


class Unreached(NoAnswer):
    """Nothing at all answers at the address."""


def token(settings: Settings, role: Role) -> str:
    """The token of the role.

    Raises:
        InvalidSettings: there is no cluster secret to derive it from.
    """
    found = tokens(settings, role)
    if not found:
        raise InvalidSettings(
            [
                "`secret` is not set, and tokens come from it: give the nodes' SESSIONHA_SECRET."
                " An application that runs alone has an administration only if SESSIONHA_SECRET"
                " and SESSIONHA_ADMIN are set for it, and the same here"
            ]
        )
    return found[0]


def address_of(settings: Settings, given: str | None) -> str:
    """The base URL of the administration: as given, else as set, else the default.

    Raises:
        InvalidSettings: it is turned off, or what was given is no address.
    """
    if given is None:
        if settings.origins.get("admin") and not settings.admin:
            raise InvalidSettings(["`admin` is off here: name the node's address, host:port"])
        host, _, port = (settings.admin or f"127.0.0.1:{ADMIN_PORT}").rpartition(":")
        everywhere = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
        given = f"{everywhere.get(host, host)}:{port}"
    url = given if "://" in given else f"http://{given}"
    if not _is_address(url):
        raise InvalidSettings([f"{given!r} is no address: write host:port or http://host:port"])
    if "://" not in given and urlsplit(url).port is None:
        url = f"{url}:{ADMIN_PORT}"
    return url.rstrip("/")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return False


def is_administration(url: str) -> bool:
    """Whether an administration answers at the URL. No token is told before that is known."""
    opener = build_opener(ProxyHandler({}), _Stay())
    try:
        opener.open(f"{url}/v1/doctor", timeout=TIMEOUT).close()
    except HTTPError as answer:
        with answer:
            return REALM in (answer.headers.get("WWW-Authenticate") or "")
    except (URLError, OSError, HTTPException):
        return False
    return False


def ask(
    url: str,
    path: str,
    bearer: str,
    *,
    has: str,
    method: Literal["GET", "DELETE", "POST"] = "GET",
    timeout: float = TIMEOUT,
    also: int = 200,
) -> dict[str, Any]:
    """What the administration at `url` answers: an object that has the member `has`. `also`: a
    status besides 200 with which it answers.

    Raises:
        NoAnswer: it cannot be reached, refuses, or is something else.
    """
    # No proxy of the environment: it would see the token.
    opener = build_opener(ProxyHandler({}), _Stay())
    headers = {"Authorization": f"Bearer {bearer}"}
    request = Request(f"{url}{path}", headers=headers, method=method)
    try:
        try:
            answer = opener.open(request, timeout=timeout)
        except HTTPError as other:
            if other.code != also:
                raise
            answer = other
        with answer:
            found = json.loads(answer.read(ANSWER_BYTES))
    except HTTPError as error:
        why = f"{url} answers {error.code}"
        if error.code in (401, 403):
            why += ": the cluster secret here is not the node's"
        elif error.code == 404:
            why += ": that is no node's administration; name the address of its `admin`"
        elif error.code in (400, 503):
            why += f": {error.read(REASON_BYTES).decode(errors='replace').strip()}"
        raise NoAnswer(why) from None
    except (URLError, OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise Unreached(
            f"{url} does not answer ({reason}): does a node with the extra `admin`"
            " run, and is this the address of its `admin`? (One that runs alone has none unless"
            " SESSIONHA_ADMIN and SESSIONHA_SECRET are set for it.)"
        ) from None
    except ValueError:
        raise NoAnswer(f"{url} is not the administration of a node") from None
    if not isinstance(found, dict) or has not in found:
        raise NoAnswer(f"{url} is not the administration of a node")
    return found

"""Asks a node's administration for its status, and shows it to a person."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sessionha.admin.tokens import Role, tokens
from sessionha.errors import InvalidSettings
from sessionha.settings import ADMIN_PORT, Settings

TIMEOUT: Final = 5.0
"""Seconds: the node is asked for what it has in memory."""

ANSWER_BYTES: Final = 4 << 20
"""More is no status: a member takes about 200 bytes, and a cluster has at most 4,096."""

MIB: Final = 2**20

_SHOWN: Final = ("commits", "handovers", "promotions", "unconfirmed", "gone")


class NoAnswer(Exception):
    """The administration did not answer as it should; the words name the address and a remedy."""


class _Stay(HTTPRedirectHandler):
    """A token goes to the address that was asked for and to no other."""

    def redirect_request(self, *_: Any) -> None:
        """No other request is made."""


def token(settings: Settings, role: Role) -> str:
    """The token of the role.

    Raises:
        InvalidSettings: there is no cluster secret to derive it from.
    """
    found = tokens(settings, role)
    if not found:
        raise InvalidSettings(
            ["`secret` is not set, and tokens come from it: give the nodes' SESSIONHA_SECRET"]
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


def ask(url: str, bearer: str) -> dict[str, Any]:
    """The status that the administration at `url` gives.

    Raises:
        NoAnswer: it cannot be reached, refuses, or is something else.
    """
    # No proxy of the environment: it would see the token.
    opener = build_opener(ProxyHandler({}), _Stay())
    request = Request(f"{url}/v1/status", headers={"Authorization": f"Bearer {bearer}"})
    try:
        with opener.open(request, timeout=TIMEOUT) as answer:
            found = json.loads(answer.read(ANSWER_BYTES))
    except HTTPError as error:
        why = f"{url} answers {error.code}"
        if error.code in (401, 403):
            why += ": the cluster secret here is not the node's"
        elif error.code == 404:
            why += ": that is no node's administration; name the address of its `admin`"
        raise NoAnswer(why) from None
    except (URLError, OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise NoAnswer(
            f"{url} does not answer ({reason}): does a node with the extra `admin`"
            " run, and is this the address of its `admin`?"
        ) from None
    except ValueError:
        raise NoAnswer(f"{url} is not the administration of a node") from None
    if not isinstance(found, dict) or "members" not in found:
        raise NoAnswer(f"{url} is not the administration of a node")
    return found


def show(status: Mapping[str, Any], console: Console) -> None:
    """Print the status as a person reads it."""
    view, store, counts = status["view"], status["store"], status["counts"]
    waits = f", waits for {status['waiting_for']}" if status["waiting_for"] else ""
    lines = {
        "cluster": f"{status['cluster']}, {status['consistency']} mode,"
        f" {status['backups']} backups",
        "node": f"{status['node']} ({status['state']}{waits}), engines"
        f" {', '.join(map(str, status['engines']))}",
        "view": f"{view['number']}, {len(status['members'])} members",
        "store": f"{store['used'] / MIB:.1f} of {store['limit'] / MIB:.1f} MiB",
        "done": ", ".join(f"{counts.get(f'state/{name}', 0)} {name}" for name in _SHOWN),
        "version": status["versions"]["sessionha"],
    }
    for name, words in lines.items():
        console.print(f"{name:<12} {words}", highlight=False, markup=False, soft_wrap=True)
    console.print(_members(status))


def _members(status: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("node", "state", "since view", "peer address", "URL", "zone"):
        table.add_column(heading, overflow="fold")
    rows = [
        (each["node"], each["state"], each["joined"], each["peer"], each["url"], each["zone"])
        for each in status["members"]
    ]
    for other in status["others"]:
        awaited = ", may hold sessions" if other["awaited"] else ""
        rows.append((other["node"], other["state"] + awaited, "", "", "", ""))
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))  # plain: a name is no markup
    return table

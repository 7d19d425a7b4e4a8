"""Reads vectors.toml: the affinity rule as cases, and the cookies that they speak of."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from sessionha.identity import Epoch, Position, ViewID, server_name
from sessionha.session.cookies import Route, RouteCookies
from sessionha.settings import Settings
from sessionha.view import Member, View

SECRETS: Final = (
    "b1f7-6d20-91ce-4a83-8e55-d0c9-27af-e364",
    "4c90-fe1b-7a32-48d6-b7e1-59c3-0a8d-f216",
)
"""Of the cluster: the first signs, the second is a former one."""

STRANGER: Final = "77d3-0be8-c41f-4f60-95a2-e83b-16c7-9d0a"

_PLACE = re.compile(r"\{([a-z0-9~-]+)(?:!(\w+))?\}")


class Vector(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One case; see the top of vectors.toml."""

    claim: str
    nodes: dict[str, str]
    tried: list[str]
    others: list[str]
    last: list[str] = []
    cookie: str = ""
    cookies: list[str] = []
    header: str = ""
    needs: list[str] = []

    @property
    def requests(self) -> list[dict[str, str]]:
        """The headers of each request that the case is about."""
        route = {"sessionha-route": filled(self.header)} if self.header else {}
        cookies = self.cookies or [self.cookie]
        return [route | ({"cookie": filled(cookie)} if cookie else {}) for cookie in cookies]


def vectors() -> list[Vector]:
    """All cases."""
    told = tomllib.loads(Path(__file__).with_name("vectors.toml").read_text(encoding="utf-8"))
    return [msgspec.convert(each, Vector) for each in told["vector"]]


def filled(text: str) -> str:
    """The text with cookies in place of what stands for them."""
    return _PLACE.sub(lambda found: route_cookie(found[1].split("~"), found[2] or ""), text)


def route_cookie(names: list[str], how: str = "") -> str:
    """The value of a route cookie with these servers."""
    signing = {"former": SECRETS[1:], "stranger": (STRANGER,)}.get(how, SECRETS)
    written = "other" if how == "altered" else "~".join(names)
    route = Route(tuple(written.split("~")), b"g" * 12, Position(Epoch(1, 1, "n1"), 1), "cluster")
    value = RouteCookies(settings(signing).keys(_label())).write(route)
    return value.replace(".other.", f".{'~'.join(names)}.", 1) if how == "altered" else value


def _label() -> bytes:
    from sessionha.keys import ROUTE_LABEL

    return ROUTE_LABEL


def settings(secrets: tuple[str, ...] = SECRETS, **more: Any) -> Settings:
    """Those of the cluster, as a router or a command has them."""
    return Settings.observe({}, nodes="n1=http://127.0.0.1:1", secret=list(secrets), **more)


def view_of(nodes: Mapping[str, str], urls: Mapping[str, str], number: int = 1) -> View:
    """The view of a case."""
    return View(
        ViewID(number, ""),
        tuple(
            Member(
                node,
                f"inc-{server_name(node)}",
                ViewID(1, ""),
                "127.0.0.1:1",
                urls[node],
                role="spare" if state == "spare" else "server",
                ready=state != "drain",
            )
            for node, state in nodes.items()
        ),
    )

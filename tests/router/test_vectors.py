"""The Python router passes the vectors of the affinity rule."""

from __future__ import annotations

from typing import Any

import pytest

from sessionha.keys import ROUTE_LABEL
from sessionha.router.app import Router
from sessionha.router.balance import ANY
from sessionha.router.headers import Request
from sessionha.router.upstreams import Upstreams
from sessionha.session.cookies import RouteCookies
from tests.balancers.vectors import Vector, settings, vectors, view_of


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector.claim)
async def test_the_router_tries_the_servers_of_the_vector(vector: Vector) -> None:
    upstreams = Upstreams(lambda: 0.0)
    upstreams.view_changed(view_of(vector.nodes, {node: f"http://{node}" for node in vector.nodes}))
    router = Router(upstreams, RouteCookies(settings().keys(ROUTE_LABEL)))
    for headers in vector.requests:
        scope: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "scheme": "http",
            "client": ("127.0.0.1", 1),
            "headers": [
                (b"host", b"shop"),
                *((n.encode(), v.encode()) for n, v in headers.items()),
            ],
        }
        request = Request(scope, b"hsr")
        tried = [each.target.node for each in router._candidates(request, ANY)]
        first = len(vector.tried)
        rest = first + len(vector.others)
        assert tried[:first] == vector.tried
        assert set(tried[first:rest]) == set(vector.others)
        assert sorted(tried[rest:]) == sorted(vector.last)

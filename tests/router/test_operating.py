"""What the router tells who runs it, and asks the servers: access log, metrics, health checks."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sessionha.router import metrics
from sessionha.router.access import AccessLog
from sessionha.router.checks import Checks
from sessionha.router.counts import Counts
from sessionha.router.upstreams import Upstreams
from sessionha.topology.health import NodeState
from tests.router.conftest import Receive, Scope, Send, World, member, reply, route_cookie
from tests.router.test_headers import exchange
from tests.router.test_limits import until


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


async def test_a_line_for_each_request_without_what_is_secret(world: World, tmp_path: Path) -> None:
    n1 = await world.node("n1")
    router = await world.route(member("n1", n1.url), member("n2", "http://127.0.0.1:1"))
    file = tmp_path / "access.log"
    router.access = AccessLog(str(file), lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    await world.request("POST", "/cart?token=secret", route_cookie("n2", "n1"), data=b"x")
    router.access.flush()
    (line,) = lines(file)
    assert isinstance(line.pop("ms"), float)
    assert line == {
        "time": "2026-01-02T03:04:05.000+00:00", "client": "127.0.0.1", "method": "POST",
        "path": "/cart", "status": 200, "bytes": 2, "server": "n1", "attempts": 2,
    }  # fmt: skip


async def test_a_log_that_was_moved_away_goes_on_in_a_new_file(
    world: World, tmp_path: Path
) -> None:
    router = await world.route()
    file = tmp_path / "access.log"
    router.access = AccessLog(str(file))
    await world.request("GET", "/first")
    router.access.flush()
    file.rename(tmp_path / "access.log.1")
    await world.request("GET", "/second")
    router.access.reopen()
    await world.request("GET", "/third")
    router.access.flush()
    assert [line["path"] for line in lines(tmp_path / "access.log.1")] == ["/first", "/second"]
    assert [(line["path"], line["status"]) for line in lines(file)] == [("/third", 503)]


async def test_a_log_that_cannot_be_written_stops_no_request(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    router = await world.route()
    router.access = AccessLog(str(tmp_path / "missing" / "access.log"))
    for _ in range(2):
        assert (await world.request("GET"))[0] == 503
        router.access.flush()
    assert caplog.text.count("access log cannot be written") == 1


async def test_the_metrics_tell_what_happened(world: World) -> None:
    n1 = await world.node("n1")
    router = await world.route(member("n1", n1.url), member("n2", "http://127.0.0.1:1"))
    await world.request("GET", "/", route_cookie("n2", "n1"))
    await exchange(world.url, b"nonsense\r\n\r\n")
    text = metrics.text(router.counts, router.upstreams).decode()
    for line in (
        'sessionha_router_answers_total{server="n1",status="2xx"} 1.0',
        'sessionha_router_refused_total{reason="head"} 1.0',
        "sessionha_router_seconds_count 1.0",
        'sessionha_router_server_state{server="n2",state="failed"} 1.0',
        'sessionha_router_in_flight{server="n1"} 0.0',
        "sessionha_router_view 1.0",
    ):
        assert line in text.splitlines(), text


def test_times_fall_into_ranges() -> None:
    counts = Counts()
    counts.took.update({0: 2, 3: 1, 11: 1})
    counts.seconds = 21.0
    text = metrics.text(counts, Upstreams(lambda: 0.0)).decode().splitlines()
    assert 'sessionha_router_seconds_bucket{le="0.005"} 2.0' in text
    assert 'sessionha_router_seconds_bucket{le="0.05"} 3.0' in text
    assert 'sessionha_router_seconds_bucket{le="10"} 3.0' in text
    assert 'sessionha_router_seconds_bucket{le="+Inf"} 4.0' in text


async def test_the_metrics_are_only_at_their_own_port(world: World) -> None:
    n1 = await world.node("n1")
    await world.route(member("n1", n1.url), metrics_port=1)
    assert await world.request("GET", "/metrics") == (200, "n1")


async def test_a_server_whose_check_fails_gets_no_new_clients_until_it_succeeds(
    world: World,
) -> None:
    n1, n2 = await world.node("n1"), await world.node("n2")
    status = 404

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        await reply(send, b"n1", status if scope["path"] == "/readyz" else 200)

    n1.respond = respond
    router = await world.route(member("n1", n1.url), member("n2", n2.url))
    assert router._connections is not None
    checks = Checks(router.upstreams, router._connections, "/readyz")
    states = [upstream for upstream in router.upstreams.all() if upstream.target.name == "n1"]
    for told, state, new in (
        (404, NodeState.DRAINING, {"n2"}),
        (200, NodeState.READY, {"n1", "n2"}),
        (503, NodeState.READY, {"n1", "n2"}),
        (503, NodeState.FAILED, {"n2"}),
        (200, NodeState.READY, {"n1", "n2"}),
    ):
        status = told
        await checks.round()
        assert states[0].state is state
        assert {(await world.request("GET"))[1] for _ in range(4)} == new


async def test_checks_run_with_the_router(world: World) -> None:
    n1 = await world.node("n1")
    await world.route(member("n1", n1.url), check_path="/readyz")
    await until(lambda: any(scope["path"] == "/readyz" for scope in n1.seen))


async def test_a_router_that_stops_says_so_at_its_health_path(world: World) -> None:
    n1 = await world.node("n1")
    router = await world.route(member("n1", n1.url), health_path="/health")
    assert (await world.request("GET", "/health"))[0] == 200
    router.draining = True
    assert await world.request("GET", "/health") == (404, "draining\n")
    assert await world.request("GET", "/") == (200, "n1")

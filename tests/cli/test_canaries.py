"""What the doctor makes of canaries that real layers do not send back every day; and its client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from sessionha.cli.canaries import Canaries, Client, Seen, Told, covers
from sessionha.cli.front import Tour, diagnose
from sessionha.keys import CANARY_LABEL, new_secret
from sessionha.session.canaries import VALID, Report, canary, wish_of
from sessionha.settings import Settings

KEY = b"k" * 32
SETTINGS = Settings.load({}, secret=new_secret())

REPORT = Report(
    node="n1", state="ready", now=1000.0, cluster="c", keys=("k1",), route_cookie="hsr",
    session_cookie="session", session_path="/", in_headers=False,
    servers={"n1": "ready", "n2": "ready"}, nodes={"n1": "n1", "n2": "n2"}, path="/", hops=0,
    cookies=(), way=None, servers_named=(), signed_by="", session="none",
)  # fmt: skip
TOLD = (Told("session", "s", "/", "", False), Told("hsr", "r", "/", "", False))
NEW = Seen(kind="new", status=200, told=TOLD, report=REPORT, asked=1000.0, answered=1000.0)


def wrong(*seen: Seen, path: str = "/") -> dict[str, tuple[str, str]]:
    found = diagnose(Tour(seen, path, "shop.example"))
    return {each.check: (each.outcome, each.found) for each in found if each.outcome != "ok"}


def test_one_that_is_fine_is_fine() -> None:
    assert wrong(NEW) == {}


@pytest.mark.parametrize(
    ("seen", "check", "words"),
    [
        (Seen(kind="new", error="Connection refused"), "address", "got no answer: Connection ref"),
        (
            Seen(kind="new", status=404),
            "address",
            "1 of 1 requests were not answered by a node: 404",
        ),
        (
            Seen(kind="new", status=301, location="https://shop.example/"),
            "address",
            "301, to https://shop.example/",
        ),
        (Seen(kind="new", status=403, refused=True), "secrets", "than this command"),
    ],
)
def test_what_is_no_node_is_told_with_nothing_besides(seen: Seen, check: str, words: str) -> None:
    found = wrong(seen)
    assert list(found) == [check]
    assert words in found[check][1]


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (Told("session", "s", "/", "other.example", False), "its domain is other.example"),
        (Told("session", "s", "/shop", "", False), "its path is /shop"),
    ],
)
def test_a_cookie_that_browsers_would_not_send_back(told: Told, words: str) -> None:
    found = wrong(replace(NEW, told=(told, TOLD[1])))
    assert list(found) == ["cookie path"]
    assert words in found["cookie path"][1]


def test_sessions_that_a_node_refuses_loses_or_cannot_have() -> None:
    """Another application key, another cluster's store, a node in trouble."""
    for state, words in (
        ("refused", "n1 refuses session cookies"),
        ("gone", "n1 does not find sessions"),
        ("unavailable", "n1 cannot serve sessions"),
    ):
        report = Report(**{**fields(REPORT), "session": state, "cookies": ("session", "hsr")})
        back = replace(NEW, kind="back", sent=("session", "hsr"), report=report)
        found = wrong(NEW, back)
        assert list(found) == ["sessions"]
        assert words in found["sessions"][1]


def test_two_clusters_behind_one_address() -> None:
    other = Report(**{**fields(REPORT), "node": "n2", "cluster": "d"})
    assert "of 2 clusters: n1; n2" in wrong(NEW, replace(NEW, report=other))["cluster"][1]


def test_where_every_clock_is_wrong_it_is_this_machines() -> None:
    two = Report(**{**fields(REPORT), "node": "n2"})
    late = [replace(NEW, report=each, asked=1060.0, answered=1060.1) for each in (REPORT, two)]
    words = "this machine's clock is 60.0 s ahead of those of n1, n2"
    assert wrong(*late)["clocks"] == ("fail", words)


def fields(report: Report) -> dict[str, Any]:
    return {name: getattr(report, name) for name in report.__struct_fields__}


def test_a_canary_is_what_a_secret_of_the_cluster_signed_within_a_day() -> None:
    nonce = "0123456789abcdef"
    query = canary([KEY], "begin", 1e9, nonce)
    assert wish_of(query, [b"x" * 32, KEY], 1e9) == "begin"
    assert wish_of(query, [KEY], 1e9 + VALID) == "begin", "clocks may be wrong"
    assert wish_of(query, [KEY], 1e9 + VALID + 1) is None
    assert wish_of(query, [b"x" * 32], 1e9) is None
    assert wish_of(query.replace("begin", "end"), [KEY], 1e9) is None
    assert wish_of(query + "&page=2", [KEY], 1e9) is None
    several = canary([bytes([n]) * 32 for n in range(9)], "look", 1e9, nonce)
    assert wish_of(several, [bytes([3]) * 32], 1e9) == "look", "of secrets that are exchanged"


def test_a_client_sends_cookies_where_browsers_would() -> None:
    assert covers("/shop", "/shop/cart")
    assert not covers("/shop", "/shopping")
    client = Client()
    client.keep(
        [
            Told("a", "1", "/", "", False), Told("b", "1", "/shop", "", False),
            Told("c", "1", "/", "", True), Told("d", "1", "/", "example", False),
            Told("e", "1", "/", "other", False),
        ]
    )  # fmt: skip
    assert set(client.sends("/", "shop.example", secure=False)) == {"a", "d"}
    assert set(client.sends("/shop/", "shop.example", secure=True)) == {"a", "b", "c", "d"}
    client.keep([Told("a", "", "/", "", False)])
    assert "a" not in client.sends("/", "shop.example", secure=False)


def test_a_canary_is_sent_again_where_a_node_is_unavailable_for_a_moment() -> None:
    """While a node joins or fails some requests are answered with 503."""
    answers = [Seen(kind="", status=503), *[replace(NEW, told=())] * 99]
    paused: list[float] = []
    canaries = Canaries(
        "http://shop.example/", SETTINGS,
        send=lambda url, cookies: answers.pop(0), pause=paused.append,
    )  # fmt: skip
    assert all(seen.status == 200 for seen in canaries.run())
    assert paused == [1.0]
    answers = [Seen(kind="", status=503)] * 99
    assert {seen.status for seen in canaries.run()} >= {503}


def test_where_no_node_answers_few_requests_are_sent() -> None:
    asked: list[str] = []

    def send(url: str, cookies: Mapping[str, str]) -> Seen:
        asked.append(url)
        return Seen(kind="", status=404)

    canaries = Canaries("https://shop.example/app/", SETTINGS, send=send)
    assert len(canaries.run()) == len(asked) == 6
    query = asked[0].removeprefix("https://shop.example/app/?")
    assert wish_of(query, SETTINGS.keys(CANARY_LABEL), canaries.seen[0].asked) == "begin"

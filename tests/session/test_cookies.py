"""The two cookies: what we wrote is read, and nothing else."""

from __future__ import annotations

import hashlib
import hmac
import re

import itsdangerous
import pytest

from sessionha.errors import InvalidSettings
from sessionha.identity import BEYOND, Epoch, Position, encode64, new_group
from sessionha.session.cookies import (
    REMEMBERED,
    ROUTE_PATTERN,
    CookieAttributes,
    Route,
    RouteCookies,
    SessionCookies,
    application_keys,
    balancer_key,
    check_key,
    cluster_tag,
    cookie_values,
    key_id,
    only_valid,
)
from tests.session.fakes import WALL

OLD, NEW = b"o" * 32, b"n" * 32
ROUTE = Route(
    ("n2", "n3", "n1"), b"g" * 12, Position(Epoch(7, 3, "n2"), 42), cluster_tag("c", "life")
)


def flips(text: str) -> list[str]:
    """Every text that differs from this one in one character."""
    return [text[:i] + ("A" if text[i] != "A" else "B") + text[i + 1 :] for i in range(len(text))]


# --- the route cookie ---


def test_a_route_is_read_as_it_was_written() -> None:
    cookies = RouteCookies([NEW])
    assert cookies.read(cookies.write(ROUTE)) == ROUTE


def test_a_balancer_can_match_and_verify_it_with_one_expression_and_one_key() -> None:
    text = RouteCookies([NEW]).write(ROUTE)
    match = re.match(ROUTE_PATTERN, text)
    assert match is not None
    assert match[1] == "n2~n3~n1"
    signed, _, signature = text.rpartition(".")
    mac = hmac.digest(balancer_key(NEW), signed.encode(), "sha256")
    assert signature == encode64(mac)
    assert match[3] == key_id(NEW)


def test_itsdangerous_verifies_it_with_the_secret_and_the_salt() -> None:
    signer = itsdangerous.Signer(NEW, "sessionha route cookie hsr", ".", "hmac", hashlib.sha256)
    assert signer.validate(RouteCookies([NEW]).write(ROUTE))


def test_the_largest_route_fits_and_further_servers_are_cut() -> None:
    position = Position(Epoch(BEYOND - 1, BEYOND - 1, "N" * 64), BEYOND - 1)
    servers = tuple(f"n{i}-{'x' * 13}" for i in range(9))
    cookies = RouteCookies([NEW])
    text = cookies.write(Route(servers, b"g" * 12, position, cluster_tag("c")))
    assert len(text) <= 1024
    read = cookies.read(text)
    assert read is not None
    assert read.servers == servers[:8]
    assert re.fullmatch(r"[A-Za-z0-9._~-]+", text)


def test_a_changed_route_is_absent() -> None:
    """System 1 (j), system 5 (k): tampered cookies have no effect."""
    cookies = RouteCookies([NEW])
    assert {cookies.read(text) for text in flips(cookies.write(ROUTE))} == {None}


@pytest.mark.parametrize(
    "text",
    ["", "1", "1.n1", "1.http://evil..k.s", "null", "\ud800", "1.n1..k1." + "A" * 43, "x" * 5000],
)
def test_what_is_no_route_is_absent(text: str) -> None:
    assert RouteCookies([NEW]).read(text) is None


def test_an_old_key_is_accepted_and_the_first_signs() -> None:
    old = RouteCookies([OLD]).write(ROUTE)
    both = RouteCookies([NEW, OLD])
    assert both.read(old) == ROUTE
    assert RouteCookies([NEW]).read(both.write(ROUTE)) == ROUTE
    assert RouteCookies([NEW]).read(old) is None


def test_the_name_of_the_cookie_is_bound_into_its_signature() -> None:
    assert RouteCookies([NEW], "other").read(RouteCookies([NEW]).write(ROUTE)) is None


def test_only_verified_cookies_are_remembered_and_not_more_than_the_limit() -> None:
    cookies = RouteCookies([NEW])
    for text in flips(RouteCookies([NEW]).write(ROUTE)):
        cookies.read(text)
    assert not cookies._verified
    for version in range(REMEMBERED + 1):
        position = Position(ROUTE.position.epoch, version)
        assert cookies.read(cookies.write(ROUTE._replace(position=position))) is not None
    assert len(cookies._verified) <= REMEMBERED


# --- the session cookie ---


def test_a_session_cookie_is_read_until_its_deadline_and_the_skew() -> None:
    cookies = SessionCookies([NEW])
    group = new_group()
    session_id = cookies.ids.new(group)
    text = cookies.write(session_id, int(WALL))
    ticket = cookies.read(text, WALL + 2)
    assert ticket == (session_id, group, int(WALL))
    assert cookies.read(text, WALL + 2.1) is None


def test_a_changed_session_cookie_is_absent() -> None:
    cookies = SessionCookies([NEW])
    text = cookies.write(cookies.ids.new(new_group()), int(WALL) + 60)
    assert {cookies.read(changed, WALL) for changed in flips(text)} == {None}


def test_a_session_cookie_of_another_name_or_key_is_absent() -> None:
    cookies = SessionCookies([NEW])
    text = cookies.write(cookies.ids.new(new_group()), int(WALL) + 60)
    assert SessionCookies([NEW], "other").read(text, WALL) is None
    assert SessionCookies([OLD]).read(text, WALL) is None
    assert SessionCookies([OLD, NEW]).read(text, WALL) is not None


def test_an_id_that_a_client_chose_is_absent() -> None:
    cookies = SessionCookies([NEW])
    assert cookies.read(cookies.write("a" * 56, int(WALL) + 60), WALL) is None


def test_of_several_cookies_exactly_one_valid_counts() -> None:
    cookies = SessionCookies([NEW])
    one, two = (cookies.write(cookies.ids.new(new_group()), int(WALL)) for _ in range(2))

    def read(*values: str) -> object:
        return only_valid(values, lambda value: cookies.read(value, WALL))

    assert read("bad", one) == read(one) == read(one, one)
    assert read(one) is not None
    assert read(one, two) is None
    assert read() is None
    assert read("1", "2", "3", "4", one) is None


# --- headers ---


@pytest.mark.parametrize(
    ("headers", "values"),
    [
        (["session=a"], ["a"]),
        (["x=1; session=a;session=b"], ["a", "b"]),
        (["session=a", "session=b"], ["a", "b"]),
        (["mysession=a; session2=b; sessio=c"], []),
        (["session"], []),
        (['session="a"'], ['"a"']),
        (["session=a=b; ;;=;"], ["a=b"]),
        (["x=session; session=a"], ["a"]),
        (["x=1;session=a; y=2"], ["a"]),
        (["x=1;\tsession = a\t; y=2", "y=1; session=\tb "], ["a", "b"]),
        (["x=y; session; z=1", "x=y session=1", "xx; mysession=1", "; session=c"], ["c"]),
        ([" session=a"], ["a"]),
        (["session="], [""]),
        ([], []),
    ],
)
def test_cookie_values(headers: list[str], values: list[str]) -> None:
    assert cookie_values(headers, "session") == values


def test_set_cookie_has_starlettes_attributes_in_starlettes_order() -> None:
    plain = CookieAttributes("session")
    assert plain.set("v", 60) == "session=v; path=/; Max-Age=60; httponly; samesite=lax"
    assert plain.set("v", None) == "session=v; path=/; httponly; samesite=lax"
    full = CookieAttributes("s", "/a", "none", True, ".example.com", True)
    assert full.set("v", 0) == (
        "s=v; path=/a; Max-Age=0; httponly; samesite=none; secure; domain=.example.com; partitioned"
    )
    assert plain.delete(secure=True) == (
        "session=null; path=/; expires=Thu, 01 Jan 1970 00:00:00 GMT; "
        "httponly; samesite=lax; secure"
    )


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"name": "a b"}, "name"),
        ({"name": "__Host-s"}, "https_only"),
        ({"name": "__Secure-s"}, "https_only"),
        ({"name": "__Host-s", "secure": True, "path": "/a"}, "path"),
        ({"name": "__Host-s", "secure": True, "domain": "a.b"}, "domain"),
        ({"name": "s", "path": "/;x"}, "path"),
        ({"name": "s", "same_site": "some"}, "same_site"),
    ],
)
def test_a_cookie_that_browsers_would_refuse_is_refused_at_construction(
    options: dict[str, object], named: str
) -> None:
    with pytest.raises(InvalidSettings, match=named):
        CookieAttributes(**options)  # type: ignore[arg-type]


def test_prefixed_names_are_accepted_where_their_rules_are_kept() -> None:
    assert (
        CookieAttributes("__Host-s", secure=True).set("v", None).startswith("__Host-s=v; path=/;")
    )


# --- keys ---


@pytest.mark.parametrize(
    ("given", "keys"),
    [("a", (b"a",)), (b"a", (b"a",)), (["a", b"b"], (b"a", b"b")), (("a",), (b"a",)), ([], ())],
)
def test_application_keys(given: object, keys: tuple[bytes, ...]) -> None:
    assert application_keys(given) == keys


@pytest.mark.parametrize("key", [b"example", b"a" * 64, b"django-insecure-" + b"k2#x9!bQ" * 6])
def test_weak_keys_are_noticed_and_never_quoted(key: bytes) -> None:
    problem = check_key(key)
    assert problem is not None
    assert key.decode() not in problem


def test_a_random_key_is_fine() -> None:
    assert check_key(b"Zk3n8-2mQpX_7vRbL0wYcT9sHdJfGaUe") is None

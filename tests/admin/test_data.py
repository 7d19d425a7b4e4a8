"""The data API: what it does is what a handler of the application would have done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import httpx
import pytest

from sessionha.admin.tokens import Role, tokens
from sessionha.engine import Engine
from sessionha.errors import SessionUnavailable
from sessionha.identity import Epoch, Position
from sessionha.keys import new_secret
from sessionha.session.session import Session
from sessionha.settings import Settings
from sessionha.state.base import Loaded
from sessionha.values import ABSENT, Applied, DataManager, managers
from sessionha.values.address import DataAddress
from sessionha.values.codec import decode, encode
from tests.admin.visitors import Visitor

SETTINGS = Settings.load({}, store="memory", node="n1", secret=new_secret())

CONTENT: dict[str, Any] = {
    "cart": {"lines": [{"sku": "leaf", "n": 2}, {"sku": "root", "n": 1}], "code": "A", "7": "text"},
    "log": ["a", "b"],
    "tags": {"x", "y"},
    "theme": "dark",
    "n": 3,
    "price": Decimal("9.90"),
}

DEEP: list[Any] = []
for _ in range(16):
    DEEP = [DEEP]


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine(SETTINGS, (b"k" * 32,))
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def visitor(engine: Engine) -> Visitor:
    made = Visitor(engine)
    await made.begins(**CONTENT)
    await made.does(lambda session: session.increment("visits", 5))
    return made


# --- the same as in a handler --------------------------------------------------------------------


def decoded(answer: httpx.Response) -> Any:
    """The body of an answer in msgpack."""
    return decode(answer.content)


def assign(name: str, value: Any) -> Callable[[Session], None]:
    return lambda session: session.__setitem__(name, value)


SAME: list[tuple[Callable[[Session], Any], str, tuple[str | int, ...], Any]] = [
    (lambda s: s.__setitem__("theme", "light"), "PUT", ("value", "theme"), "light"),
    (lambda s: s.__setitem__("new", "thing"), "PUT", ("value", "new"), "thing"),
    (lambda s: s.__setitem__("new", {"a": [1]}), "PUT", ("map", "new"), {"a": [1]}),
    (lambda s: s.__setitem__("log", ["c"]), "PUT", ("list", "log"), ["c"]),
    (lambda s: s.__setitem__("visits", 9), "PUT", ("counter", "visits"), 9),
    (lambda s: s["cart"].__setitem__("code", None), "PUT", ("map", "cart", "code"), None),
    (
        lambda s: s["cart"]["lines"].append({"sku": "stem"}),
        "PATCH",
        ("map", "cart", "lines"),
        [["append", [], [{"sku": "stem"}]]],
    ),
    (
        lambda s: s["cart"]["lines"][1].update(n=4, gift=True),
        "PATCH",
        ("map", "cart", "lines", 1),
        [["set", ["n"], 4], ["set", ["gift"], True]],
    ),
    (lambda s: s["log"].pop(0), "PATCH", ("list", "log"), [["remove", [0]]]),
    (lambda s: s["tags"].add("z"), "PATCH", ("set", "tags"), [["add", [], ["z"]]]),
    (lambda s: s.__delitem__("theme"), "DELETE", ("value", "theme"), None),
    (lambda s: s["cart"].pop("7"), "DELETE", ("map", "cart", "7"), None),
    (lambda s: s["cart"]["lines"].pop(0), "DELETE", ("map", "cart", "lines", 0), None),
    (lambda s: s.increment("visits", 2), "POST", ("counter", "visits"), {"increment": 2}),
    (lambda s: s.increment("n"), "POST", ("counter", "n"), {"increment": 1}),
    (lambda s: s.increment("fresh", 0.5), "POST", ("counter", "fresh"), {"increment": 0.5}),
    (
        lambda s: s["cart"]["lines"][0].update(n=5),
        "POST",
        ("map", "cart", "lines", 0, "n"),
        {"increment": 3},
    ),
]


@pytest.mark.parametrize("number", range(len(SAME)))
@pytest.mark.parametrize("kind", ["application/json", "application/msgpack"])
async def test_every_verb_does_what_a_handler_does(engine: Engine, number: int, kind: str) -> None:
    """System 2 item 8: in-process and out-of-process give the same result."""
    inside, outside = Visitor(engine), Visitor(engine)
    for each in (inside, outside):
        await each.begins(**CONTENT)
        await each.does(lambda session: session.increment("visits", 5))
    handler, method, (manager, name, *path), body = SAME[number]
    address = outside.address.at(str(manager), str(name), *path)
    if kind == "application/json":
        answer = await outside.asks(method, address, json=body)
    else:
        headers = outside.headers(content_type=kind, accept=kind)
        answer = await outside.asks(method, address, headers=headers, content=encode(body, "body"))
    await inside.does(handler)
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    assert outside.stored() == inside.stored()
    assert outside.loaded().held.position.version == inside.loaded().held.position.version


async def test_several_elements_change_together_or_not_at_all(visitor: Visitor) -> None:
    """System 2 item 2: all operations of one message are one atomic batch under one version."""
    before = visitor.loaded().held.position.version
    batch = {
        "values": {"theme": "light", "extra": [1]},
        "operations": {
            "cart": [["append", ["lines"], ["stem"]]],
            "visits": [["increment", [], 1]],
            "jobs": [["add", [], ["mail"]]],
        },
        "managers": {"visits": "counter", "jobs": "set"},
        "deletes": ["log"],
    }
    answer = await visitor.asks("PATCH", visitor.address, json=batch)
    assert answer.status_code == 200
    assert visitor.loaded().held.position.version == before + 1
    found = await visitor.does(dict)
    assert (found["theme"], found["extra"], found["visits"]) == ("light", [1], 6)
    assert found["cart"]["lines"][-1] == "stem"
    assert found["jobs"] == {"mail"}
    assert "log" not in found

    for wrong, status in [
        ({"deletes": ["theme", "absent"]}, 404),
        ({"values": {"theme": 1}, "operations": {"absent": [["append", [], [1]]]}}, 404),
        ({"values": {"theme": 1}, "operations": {"cart": [["append", ["code"], [1]]]}}, 422),
        ({"values": {"theme": 1}, "operations": {"tags": []}, "managers": {"tags": "map"}}, 409),
        ({"values": {"theme": 1}, "deletes": ["theme"]}, 400),
        ({"values": {"theme": 1}, "other": {}}, 400),
        ({"values": ["theme"]}, 400),
        ({"deletes": ["\ud800"]}, 404),
        ({"values": {"\ud800": 1}}, 422),
        ({"operations": {"theme": []}, "managers": {"theme": "\ud800"}}, 409),
        ({"operations": {"theme": []}, "managers": {"theme": 1}}, 400),
        ([], 400),
    ]:
        refused = await visitor.asks("PATCH", visitor.address, json=wrong)
        assert (wrong, refused.status_code) == (wrong, status)
    assert await visitor.does(dict) == found
    assert visitor.loaded().held.position.version == before + 1


async def test_what_is_read_is_what_a_handler_reads(visitor: Visitor) -> None:
    content = await visitor.does(dict)
    for name, manager in [("cart", "map"), ("log", "list"), ("theme", "value"), ("n", "value")]:
        answer = await visitor.asks("GET", visitor.address.at(manager, name))
        assert answer.json() == content[name]
    inside = visitor.address.at("map", "cart", "lines", 0, "sku")
    assert (await visitor.asks("GET", inside)).json() == "leaf"
    exactly = visitor.headers(accept="application/msgpack")
    whole = await visitor.asks("GET", visitor.address, headers=exactly)
    elements = decoded(whole)["elements"]
    assert {name: each["value"] for name, each in elements.items()} == content
    assert elements["visits"]["manager"] == "counter"
    some = await visitor.asks("GET", f"{visitor.address}?element=theme&element=n")
    assert some.json()["elements"].keys() == {"theme", "n"}
    assert 0 < some.json()["idle_left"] <= 14 * 86_400


async def test_an_application_gives_the_addresses_of_its_elements(visitor: Visitor) -> None:
    address = await visitor.does(lambda session: session.address("cart", "lines", 1, "sku"))
    assert address == str(visitor.address.at("map", "cart", "lines", 1, "sku"))
    assert (await visitor.asks("GET", address)).json() == "root"
    with pytest.raises(KeyError):
        await visitor.does(lambda session: session.address("absent"))


async def test_keys_that_look_like_indexes_are_keys_where_a_map_is(visitor: Visitor) -> None:
    await visitor.does(assign("mixed", {"0": "text", 1: "number"}))
    mixed = visitor.address.at("map", "mixed")
    assert (await visitor.asks("GET", f"{mixed}/0")).json() == "text"
    assert (await visitor.asks("GET", f"{mixed}/1")).json() == "number"
    assert (await visitor.asks("GET", f"{mixed}/2")).status_code == 404
    await visitor.asks("PUT", f"{mixed}/2", json="new")
    assert (await visitor.does(dict))["mixed"] == {"0": "text", 1: "number", "2": "new"}


async def test_a_message_is_a_use_of_the_session(engine: Engine) -> None:
    """A write is a recorded use on its own; a read is one as often as a request would be."""
    visitor = Visitor(engine, max_age=1000)
    await visitor.begins(theme="dark")
    key = visitor.address.group, visitor.address.key
    node = engine.state.node
    later = 400_000
    now, node.clock.now = node.clock.now, lambda: now() + later  # type: ignore[method-assign]
    assert visitor.loaded().idle_left <= 600_000
    assert (await visitor.asks("GET", visitor.address)).status_code == 200
    loaded = engine.state.load(*key)
    assert loaded is not None
    assert loaded.idle_left > 990_000
    later = 800_000
    await visitor.asks("PUT", visitor.address.at("value", "theme"), json="light")
    loaded = engine.state.load(*key)
    assert loaded is not None
    assert loaded.idle_left > 990_000
    later = 1_900_000
    assert (await visitor.asks("GET", visitor.address)).status_code == 404


async def test_the_answer_to_a_write_tells_position_and_copies(visitor: Visitor) -> None:
    theme = visitor.address.at("value", "theme")
    answer = await visitor.asks("PUT", theme, json="light")
    version = visitor.loaded().held.position.version
    assert answer.json()["copies"] == 0
    assert answer.headers["sessionha-copies"] == "0"
    assert answer.headers["sessionha-position"] == answer.json()["position"]
    assert f".{version}.n1" in answer.json()["position"]
    again = await visitor.asks("PUT", theme, json="light")
    assert again.json() == answer.json()  # it is so already: nothing was sent
    assert answer.headers["cache-control"] == "no-store"


async def test_a_position_that_was_told_is_a_floor(
    engine: Engine, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sends it back is served nothing older, whichever node answers."""
    theme, find = visitor.address.at("value", "theme"), engine.state.find
    told = (await visitor.asks("GET", theme)).headers["sessionha-position"]
    floors: list[object] = []

    async def watched(group: bytes, key: bytes, floor: Position | None) -> Loaded | None:
        floors.append(floor)
        return await find(group, key, floor)

    monkeypatch.setattr(engine.state, "find", watched)
    good = visitor.headers(sessionha_position=told)
    assert (await visitor.asks("GET", theme, headers=good)).status_code == 200
    assert floors == [visitor.loaded().held.position]
    for wrong in ("1.x", "1.2.three.n1", "", "1.-1.1.n1", f"{2**53}.1.1.n1", f"1.1.{2**64}.n1"):
        headers = visitor.headers(sessionha_position=wrong)
        assert (await visitor.asks("GET", theme, headers=headers)).status_code == 400


async def test_a_position_that_nobody_told_breaks_nothing(engine: Engine, visitor: Visitor) -> None:
    """Contract R16: a position from outside is a hint. The node goes on, and so do its numbers."""
    theme = visitor.address.at("value", "theme")
    for attempt in (2**47 - 1, 2**47, 2**53 - 1):
        headers = visitor.headers(sessionha_position=f"1.{attempt}.1.x")
        assert (await visitor.asks("GET", theme, headers=headers)).status_code == 200
        assert visitor.loaded().held.position.epoch > Epoch(1, attempt, "x")
        other = Visitor(engine)
        await other.begins(theme="light")
        answer = await other.asks("GET", other.address.at("value", "theme"))
        told = other.headers(sessionha_position=answer.headers["sessionha-position"])
        again = await other.asks("GET", other.address.at("value", "theme"), headers=told)
        assert again.status_code == 200
        assert other.loaded().held.position.epoch.attempt < 2**48


async def test_a_number_that_json_cannot_tell_is_not_added_up(visitor: Visitor) -> None:
    """What is answered after a change is looked at before it."""
    await visitor.does(assign("map", {"n": 10**4300, "x": 1e308}))
    before = visitor.stored()
    for key, by in (("n", 1), ("x", 1e308)):
        answer = await visitor.asks(
            "POST", visitor.address.at("map", "map", key), json={"increment": by}
        )
        assert answer.status_code == 406
        assert "application/msgpack" in answer.json()["message"]
        assert visitor.stored() == before
    exactly = visitor.headers(accept="application/msgpack")
    place = visitor.address.at("map", "map", "n")
    answer = await visitor.asks("POST", place, headers=exactly, json={"increment": 1})
    assert decoded(answer)["value"] == 10**4300 + 1


async def test_a_session_that_is_destroyed_is_gone(visitor: Visitor) -> None:
    assert (await visitor.asks("DELETE", visitor.address)).status_code == 200
    for method in ("GET", "PATCH", "DELETE"):
        gone = await visitor.asks(method, visitor.address, json={})
        assert (gone.status_code, gone.json()["error"]) == (404, "NoSession")
    assert await visitor.does(dict) == {}


class Score(NamedTuple):
    points: int


class Scores(DataManager):
    """Keeps what is a score, and nothing else."""

    name = "score"
    types = (Score,)

    def pack(self, value: Score) -> int:
        return value.points

    def unpack(self, plain: Any) -> Score:
        if type(plain) is not int:
            raise ValueError("a score is a whole number")
        return Score(plain)

    def apply(self, value: Any, operation: Any, *, strict: bool = False) -> Applied:
        return Applied((0 if value is ABSENT else value) + int(operation), 0)


async def test_a_data_manager_of_the_application_is_asked(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What travels is the plain value that it stores, and it validates what comes."""
    monkeypatch.setattr(managers, "_by_name", dict(managers._by_name))
    monkeypatch.setattr(managers, "_by_type", dict(managers._by_type))
    managers.register(Scores())
    score = visitor.address.at("score", "best")
    assert (await visitor.asks("PUT", score, json=5)).status_code == 200
    assert (await visitor.does(dict))["best"] == Score(5)
    assert (await visitor.asks("PATCH", score, json=3)).status_code == 200
    assert (await visitor.asks("GET", score)).json() == 8
    batch = {"values": {"best": 2}}
    assert (await visitor.asks("PATCH", visitor.address, json=batch)).status_code == 200
    for wrong in ("x", 1.5):
        for method, address, body in [
            ("PUT", score, wrong),
            ("PATCH", visitor.address, {"values": {"best": wrong}}),
        ]:
            answer = await visitor.asks(method, address, json=body)
            assert (answer.status_code, answer.json()["error"]) == (422, "OperationRefused")
    assert (await visitor.asks("PATCH", score, json="x")).status_code == 422
    assert (await visitor.does(dict))["best"] == Score(2)


# --- who may -------------------------------------------------------------------------------------


async def test_only_the_role_data_may(visitor: Visitor) -> None:
    def bearer(role: Role) -> dict[str, str]:
        token = f"Bearer {tokens(SETTINGS, role)[0]}"
        return {"authorization": token, "sessionha-session": visitor.session_id}

    nobody = {"sessionha-session": visitor.session_id}
    theme = visitor.address.at("value", "theme")
    for headers, status in [(nobody, 401), (bearer("read"), 403), (bearer("operate"), 403)]:
        answer = await visitor.asks("GET", theme, headers=headers)
        assert answer.status_code == status
        assert "dark" not in answer.text
    assert (await visitor.asks("GET", theme, headers=bearer("data"))).json() == "dark"


async def test_a_wrong_session_is_as_one_that_does_not_exist(
    engine: Engine, visitor: Visitor
) -> None:
    """System 2 (j): the data API rejects a wrong session, and does not tell what was wrong."""
    other = Visitor(engine)
    await other.begins(theme="other")
    ended = Visitor(engine)
    await ended.begins(theme="x")
    await ended.does(lambda session: session.destroy())
    mine, theirs = visitor.address, other.address
    attempts = [
        (ended.address, ended.headers()),  # its own ID: it is no more
        (mine, other.headers()),
        (theirs, visitor.headers()),
        (DataAddress(theirs.group, mine.key), visitor.headers()),
        (DataAddress(mine.group, b"x" * 16), visitor.headers()),
        (mine, visitor.headers(sessionha_session="")),
        (mine, visitor.headers(sessionha_session=str(mine))),
        (mine, visitor.headers(sessionha_session="." * 56)),
        (mine, visitor.headers(sessionha_virtual_server="other")),
    ]
    answers = {
        (answer.status_code, answer.text)
        for where, headers in attempts
        for what in (where, where.at("value", "theme"))
        for answer in [await visitor.asks("GET", what, headers=headers)]
    }
    assert len(answers) == 1
    assert next(iter(answers))[0] == 404


async def test_a_secondary_session_is_a_session_of_its_own(engine: Engine) -> None:
    visitor = Visitor(engine)
    await visitor.begins(theme="dark")

    def begin(session: Session) -> Session:
        wizard = session.secondary("wizard")
        wizard["step"] = 1
        return wizard

    wizard = await visitor.does(begin)
    visitor.session_id = wizard.id
    await visitor.asks(
        "POST", wizard.address("step").replace("/value/", "/counter/"), json={"increment": 2}
    )
    assert await visitor.does(lambda session: dict(session.secondary("wizard"))) == {"step": 3}
    assert await visitor.does(dict) == {"theme": "dark"}
    assert (await visitor.asks("GET", visitor.address)).status_code == 404  # the other one's


async def test_sessions_of_another_virtual_server_are_found_under_its_name(engine: Engine) -> None:
    visitor = Visitor(engine)
    await visitor.begins(theme="dark")
    named = visitor.headers(sessionha_virtual_server="default")
    assert (await visitor.asks("GET", visitor.address, headers=named)).is_success
    elsewhere = visitor.at("other")
    other = visitor.headers(sessionha_virtual_server="other")
    assert (await visitor.asks("GET", elsewhere, headers=other)).status_code == 404


@pytest.mark.parametrize(
    ("method", "manager", "name", "body"),
    [
        ("GET", "list", "cart", None),
        ("PUT", "list", "cart", ["x"]),
        ("PATCH", "value", "cart", [["set", [], 1]]),
        ("DELETE", "value", "cart", None),
        ("POST", "counter", "cart", {"increment": 1}),
        ("POST", "counter", "theme", {"increment": 1}),
        ("PUT", "nobody", "cart", 1),
        ("PUT", "nobody", "absent", 1),
        ("PATCH", "nobody", "absent", [["set", [], 1]]),
        ("PUT", "map", "absent", ["x"]),
        ("PUT", "value", "absent", {"x": 1}),
        ("PUT", "list", "absent", "x"),
    ],
)
async def test_a_wrong_manager_is_a_conflict(
    visitor: Visitor, method: str, manager: str, name: str, body: Any
) -> None:
    """System 2 (j): the data API rejects a wrong manager."""
    before = visitor.stored()
    answer = await visitor.asks(method, visitor.address.at(manager, name), json=body)
    assert (answer.status_code, answer.json()["error"]) == (409, "WrongManager")
    assert f"`{manager}`" in answer.json()["message"]
    assert visitor.stored() == before


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "manager", "path", "body", "status", "words"),
    [
        ("GET", "map", ("absent",), None, 404, "nothing is there"),
        ("GET", "map", ("cart", "absent"), None, 404, "nothing is there"),
        ("GET", "map", ("cart", "lines", 2), None, 404, "nothing is there"),
        ("GET", "map", ("cart", "code", "x"), None, 404, "nothing is there"),
        ("DELETE", "map", ("absent",), None, 404, "nothing was changed"),
        ("DELETE", "map", ("cart", "absent"), None, 404, "nothing was changed"),
        ("PUT", "map", ("cart", "code", "x"), 1, 422, "does not fit"),
        ("PUT", "counter", ("absent",), "x", 422, "a number"),
        ("PUT", "counter", ("absent",), True, 422, "a number"),
        ("PUT", "value", ("x" * 257,), 1, 422, "256 bytes"),
        ("PUT", "value", ("theme",), "\ud800", 422, "no Unicode"),
        ("PUT", "list", ("log",), DEEP, 422, "too deeply"),
        ("PATCH", "list", ("log",), [["append", [], [DEEP]]], 422, "too deeply"),
        ("PUT", "value", ("theme",), "x" * 66_000, 413, "session_bytes"),
        ("PUT", "value", ("theme",), "x" * 200_000, 413, "a body may have"),
        ("PATCH", "map", ("cart",), [["set"]], 422, "cannot be done"),
        ("PATCH", "map", ("cart",), [["rename", ["code"], "x"]], 422, "begins with one of"),
        ("PATCH", "map", ("cart",), "set", 422, "list of at most"),
        ("PATCH", "map", ("cart", "lines"), {"set": 1}, 422, "list of steps"),
        ("PATCH", "map", ("cart",), [["remove", ["absent"]]], 422, "nothing is there"),
        ("PATCH", "map", ("cart",), [["set", ["code"], "B", 1]], 422, "something else"),
        ("PATCH", "map", ("cart",), [["set", ["x"] * 1000, 1]], 422, "at most 64 keys"),
        ("PUT", "map", ("cart", *["x"] * 1000), 1, 422, "at most 64 keys"),
        ("POST", "map", ("cart", *["x"] * 1000), {"increment": 1}, 422, "at most 64 keys"),
        ("PATCH", "value", ("theme",), [["set", [], 1]], 422, "has none"),
        ("POST", "counter", ("visits",), 1, 400, "increment"),
        ("POST", "counter", ("visits",), {"increment": "1"}, 422, "a number"),
        ("POST", "map", ("cart", "code"), {"increment": 1}, 422, "no number"),
    ],
)  # fmt: skip
async def test_what_cannot_be_done_is_refused_and_changes_nothing(
    visitor: Visitor,
    method: str,
    manager: str,
    path: tuple[str, ...],
    body: Any,
    status: int,
    words: str,
) -> None:
    before = visitor.stored()
    address = visitor.address.at(manager, *path)
    sent = {} if body is None else {"json": body}
    answer = await visitor.asks(method, address, **sent)
    assert (answer.status_code, answer.headers["cache-control"]) == (status, "no-store")
    assert words in answer.json()["message"]
    assert visitor.stored() == before


async def test_requests_that_are_none_are_refused(visitor: Visitor) -> None:
    mine, theme = visitor.address, visitor.address.at("value", "theme")
    assert (await visitor.asks("PUT", mine, json=1)).status_code == 405
    assert (await visitor.asks("POST", mine, json=1)).headers["allow"] == "GET, PATCH, DELETE"
    assert (await visitor.asks("GET", f"/map{mine}")).status_code == 400
    assert (await visitor.asks("GET", "/x")).status_code == 400
    for content, kind, status in [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"NaN", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"\xc1", "application/msgpack", 400),
        (b"x=1", "application/x-www-form-urlencoded", 415),
    ]:
        headers = visitor.headers(content_type=kind)
        answer = await visitor.asks("PUT", theme, headers=headers, content=content)
        assert (content[:3], answer.status_code) == (content[:3], status)
    assert (await visitor.does(dict))["theme"] == "dark"


async def test_a_large_body_is_refused_while_it_comes(visitor: Visitor) -> None:
    sent = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b" " * 10_000

    answer = await visitor.asks("PUT", visitor.address.at("value", "theme"), content=pieces())
    assert answer.status_code == 413
    assert sent < 20


@pytest.mark.parametrize(
    "value",
    [("a",), {"s"}, b"bytes", datetime(2026, 1, 2, tzinfo=UTC), Decimal(1), {1: "x"}, float("inf")],
)  # fmt: skip
async def test_what_json_cannot_say_is_refused_and_msgpack_named(
    visitor: Visitor, value: object
) -> None:
    await visitor.does(assign("odd", {"inside": [value]}))
    address = visitor.address.at("map", "odd")
    refused = await visitor.asks("GET", address)
    assert refused.status_code == 406
    assert "application/msgpack" in refused.json()["message"]
    exactly = visitor.headers(accept="application/msgpack")
    found = decoded(await visitor.asks("GET", address, headers=exactly))
    assert found == {"inside": [value]}
    assert type(found["inside"][0]) is type(value)


async def test_one_element_that_cannot_be_read_spoils_no_other(visitor: Visitor) -> None:
    """System 2 item 6, out of process."""
    from sessionha.peer.messages import Batch, SessionChange

    address = visitor.address
    puts = (("bad", "value", b"\xc1"),)
    batch = Batch(address.group, (SessionChange(address.key, puts=puts),))
    await visitor._engine.state.commit(batch, fresh=False)
    exactly = visitor.headers(accept="application/msgpack")
    whole = decoded(await visitor.asks("GET", address, headers=exactly))
    assert whole["unreadable"].keys() == {"bad"}
    assert whole["elements"]["theme"]["value"] == "dark"
    for method in ("GET", "PATCH"):
        answer = await visitor.asks(method, address.at("value", "bad"), json=[])
        assert (answer.status_code, answer.json()["error"]) == (422, "ElementNotReadable")
    assert (await visitor.asks("PUT", address.at("value", "bad"), json=1)).is_success
    assert (await visitor.does(dict))["bad"] == 1


async def test_a_session_that_cannot_be_had_is_to_be_tried_again(
    engine: Engine, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def find(*_: object) -> None:
        raise SessionUnavailable("no holder answers")

    monkeypatch.setattr(engine.state, "find", find)
    answer = await visitor.asks("GET", visitor.address)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"] == "SessionUnavailable"


async def test_where_requests_take_turns_a_message_takes_one() -> None:
    settings = Settings.load(
        {}, store="memory", node="n1", secret=new_secret(), concurrency="serialize"
    )
    engine = Engine(settings, (b"k" * 32,))
    await engine.start()
    try:
        visitor = Visitor(engine)
        await visitor.begins(n=1)
        turn = await engine.state.turn(visitor.address.group, visitor.address.key)
        assert turn is not None
        path = visitor.address.at("counter", "n")
        waiting = asyncio.create_task(visitor.asks("POST", path, json={"increment": 1}))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not waiting.done()
        turn.end()
        assert (await waiting).json()["value"] == 2
    finally:
        await engine.stop()


async def test_nothing_of_a_message_is_logged(
    visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await visitor.asks("PUT", visitor.address.at("map", "canary", "x"), json="canary")
    await visitor.asks("PUT", visitor.address.at("map", "canary"), json={"canary": "canary"})
    await visitor.asks("GET", visitor.address.at("map", "canary"))
    ours = [record for record in caplog.records if not record.name.startswith("http")]
    assert [record for record in ours if "canary" in record.getMessage()] == []

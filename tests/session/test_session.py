"""The session as applications see it: what is noticed, what is sent, what is refused."""

from __future__ import annotations

import copy
import json
import operator
from collections.abc import Callable, MutableMapping
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from sessionha.errors import ElementNotEncodable, ElementNotReadable, SessionUnavailable
from sessionha.peer.messages import Create, SessionChange
from sessionha.session.session import DictSession, Known, Prepared, Session, UnavailableSession
from sessionha.values.codec import decode, encode
from sessionha.values.managers import manager_for
from sessionha.values.managers import read as values_read
from tests.session.fakes import written

Face = MutableMapping[str, Any]
STORED = {"user": "ada", "cart": {"items": [1, 2]}, "n": 1}
CREATE = Create(60_000, 0)
faces = pytest.mark.parametrize(
    "face", [lambda s: s, lambda s: s.as_dict()], ids=["mapping", "dict"]
)


def stored(**values: Any) -> Session:
    elements = {
        name: (manager_for(value).name, encode(value, name))
        for name, value in (values or STORED).items()
    }
    return Session(Known("old-id", b"old-key", elements, 5000), now=100.0)


def mint() -> tuple[str, bytes]:
    return "new-id", b"new-key"


def prepared(session: Session) -> Prepared:
    return session.prepare(mint, CREATE)


def change(session: Session) -> SessionChange | None:
    changes = prepared(session).changes
    assert len(changes) <= 1
    return changes[0] if changes else None


def puts(session: Session) -> dict[str, Any]:
    found = change(session)
    return {name: decode(value) for name, (_, value) in written(found).items()} if found else {}


# --- what is sent ---


@faces
@pytest.mark.parametrize(
    "use",
    [
        lambda s: None,
        lambda s: s["cart"],
        lambda s: [*s.items()],
        lambda s: s.update(user="ada"),
        lambda s: s.update(cart={"items": [1, 2]}),
        lambda s: (s.update(extra=1), s.pop("extra")),
        lambda s: (s["cart"]["items"].append(3), s["cart"]["items"].pop()),
        lambda s: (s.clear(), s.update(STORED)),
        lambda s: s.pop("missing", None),
    ],
)
def test_what_changes_nothing_sends_nothing(
    face: Callable[[Session], Face], use: Callable[[Face], object]
) -> None:
    """System 2, 4: add then remove, or an equal value, sends nothing."""
    session = stored()
    use(face(session))
    assert change(session) is None


@faces
def test_an_assignment_sends_that_element_only(face: Callable[[Session], Face]) -> None:
    """System 2 (a) and (c)."""
    session = stored()
    face(session)["n"] = 2
    assert puts(session) == {"n": 2}


@faces
def test_a_change_inside_a_value_is_noticed(face: Callable[[Session], Face]) -> None:
    """System 2 (e)."""
    session = stored()
    face(session)["cart"]["items"].append(3)
    assert puts(session) == {"cart": {"items": [1, 2, 3]}}


@faces
def test_a_deletion_sends_the_name(face: Callable[[Session], Face]) -> None:
    session = stored()
    del face(session)["n"]
    found = change(session)
    assert found is not None
    assert (found.key, found.deletes, found.puts) == (b"old-key", ("n",), ())
    assert "n" not in session


@faces
def test_true_in_the_place_of_1_is_a_change(face: Callable[[Session], Face]) -> None:
    session = stored()
    face(session)["n"] = True
    assert puts(session) == {"n": True}


@faces
def test_a_new_session_begins_with_its_first_data(face: Callable[[Session], Face]) -> None:
    session = Session()
    assert change(session) is None
    assert (session.id, session.new) == (None, True)
    face(session)["a"] = 1
    ready = prepared(session)
    assert ready.changes == (
        SessionChange(b"new-key", create=CREATE, puts=(("a", "value", encode(1, "a")),)),
    )
    session.settle(ready, None)
    assert (session.id, session.new) == ("new-id", False)
    assert change(session) is None
    face(session)["a"] = 2
    assert puts(session) == {"a": 2}


@faces
def test_clearing_ends_the_session(face: Callable[[Session], Face]) -> None:
    session = stored()
    face(session).clear()
    assert dict(session) == {}
    assert change(session) == SessionChange(b"old-key", destroy=True)


@faces
def test_deleting_the_last_element_does_not_end_the_session(
    face: Callable[[Session], Face],
) -> None:
    """Another request may have put data in meanwhile."""
    session = stored(flash="hi")
    assert face(session).pop("flash") == "hi"
    found = change(session)
    assert found is not None
    assert (found.destroy, found.deletes) == (False, ("flash",))


@faces
def test_data_after_clearing_replaces_everything(face: Callable[[Session], Face]) -> None:
    session = stored()
    face(session).clear()
    face(session)["n"] = 1
    found = change(session)
    assert found is not None
    assert found.clear
    assert found.written == ["n"]


@faces
def test_a_session_may_exist_without_data(face: Callable[[Session], Face]) -> None:
    """As frameworks promise that have a `create()`."""
    session = Session()
    face(session)
    session.begin()
    ready = prepared(session)
    assert ready.changes == (SessionChange(b"new-key", create=CREATE),)
    session.settle(ready, None)
    assert (session.id, change(session)) == ("new-id", None)


@faces
def test_a_session_that_was_cleared_may_stay(face: Callable[[Session], Face]) -> None:
    session = stored()
    face(session).clear()
    session.begin()
    assert change(session) == SessionChange(b"old-key", clear=True)


@faces
def test_another_idle_timeout_is_a_change(face: Callable[[Session], Face]) -> None:
    session = stored()
    face(session)
    session.idle_timeout = 90.5
    ready = prepared(session)
    assert ready.changes == (SessionChange(b"old-key", idle_timeout=90_500),)
    session.settle(ready, None)
    assert session.idle_timeout == 90.5
    session.idle_timeout = 90.5
    assert change(session) is None


def test_a_new_session_may_begin_with_an_idle_timeout_of_its_own() -> None:
    session = Session()
    assert session.idle_timeout is None
    session["a"] = 1
    session.idle_timeout = 1
    found = change(session)
    assert found is not None
    assert found.create == Create(1000, 0)


@pytest.mark.parametrize("seconds", [0, -1, 1e9])
def test_an_idle_timeout_is_a_sensible_time(seconds: float) -> None:
    with pytest.raises(ValueError, match="is not from 0 to"):
        stored().idle_timeout = seconds


@faces
def test_renewal_moves_the_session_to_a_new_id(face: Callable[[Session], Face]) -> None:
    """System 5, 10."""
    session = stored()
    session.renew_id()
    face(session)["user"] = "bob"
    ready = prepared(session)
    (found,) = ready.changes
    assert (found.key, found.replaces) == (b"new-key", b"old-key")
    session.settle(ready, None)
    assert session.id == "new-id"
    assert session["cart"] == STORED["cart"]
    assert change(session) is None


@faces
def test_data_after_destroying_begins_a_new_session(face: Callable[[Session], Face]) -> None:
    session = stored()
    session.destroy()
    face(session)["flash"] = "bye"
    first, second = prepared(session).changes
    assert first == SessionChange(b"old-key", destroy=True)
    assert (second.key, second.create) == (b"new-key", CREATE)


def test_what_changes_during_a_commit_is_kept_for_the_next() -> None:
    session = stored()
    session["n"] = 2
    ready = prepared(session)
    del session["user"]
    session.destroy()
    session.settle(ready, None)
    assert change(session) == SessionChange(b"old-key", destroy=True)


@faces
def test_a_value_that_was_taken_out_and_committed_can_be_put_back(
    face: Callable[[Session], Face],
) -> None:
    session = stored()
    user, cart = face(session).pop("user"), face(session).pop("cart")
    session.settle(prepared(session), None)
    face(session).update(user=user, cart=cart)
    assert puts(session) == {"user": "ada", "cart": STORED["cart"]}


@faces
def test_a_change_after_a_commit_is_noticed(face: Callable[[Session], Face]) -> None:
    session = stored()
    cart: list[Any] = [1]
    face(session)["cart"] = cart
    session.settle(prepared(session), None)
    assert change(session) is None
    cart.append(2)
    assert puts(session) == {"cart": [1, 2]}
    cart[:] = [(1,), True]
    session.settle(prepared(session), None)
    cart[:] = [[1], 1]
    assert puts(session) == {"cart": [[1], 1]}


@pytest.mark.parametrize(
    "lend",
    [
        lambda s: s["a"],
        lambda s: s.get("a"),
        lambda s: next(iter(s.values())),
        lambda s: dict(s.items())["a"],
        lambda s: {**s}["a"],
        lambda s: dict(s)["a"],
        lambda s: s.copy()["a"],
        lambda s: (s | {})["a"],
        lambda s: ({} | s)["a"],
        lambda s: s.setdefault("a", []),
        lambda s: s.setdefault("a", s.pop("a")),
        lambda s: s.setdefault("a", s.popitem()[1]),
        operator.itemgetter("a"),
        lambda s: copy.copy(dict(s))["a"],
    ],
)
def test_a_list_that_became_an_equal_tuple_is_a_change(lend: Callable[[Any], list[Any]]) -> None:
    session = stored(a=[[1], "x"])
    value = lend(session.as_dict())
    value[0] = (1,)
    assert puts(session) == {"a": [(1,), "x"]}


def test_a_change_behind_the_back_of_the_dict_is_noticed() -> None:
    """C code reads and writes the storage of a dict without asking its methods."""
    session = stored()
    face = session.as_dict()
    dict.__getitem__(face, "cart")["items"].append(3)
    dict.__setitem__(face, "n", 2)
    dict.__delitem__(face, "user")
    face.mark_accessed()
    found = change(session)
    assert found is not None
    assert found.deletes == ("user",)
    assert puts(session) == {"cart": {"items": [1, 2, 3]}, "n": 2}


def test_a_discarded_change_is_forgotten() -> None:
    session = stored()
    session["n"] = 2
    session.destroy()
    session.discard()
    assert change(session) is None
    assert session["n"] == 1


def test_the_data_manager_of_an_element_is_kept() -> None:
    session = Session(Known("i", b"k", {"hits": ("counter", encode(1, "hits"))}))
    session["hits"] = 5
    found = change(session)
    assert found is not None
    assert found.edits[0][1] == "counter"


# --- the mapping ---


def test_only_what_is_read_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []

    def noted(manager: str, data: bytes) -> Any:
        read.append(data)
        return values_read(manager, data)

    monkeypatch.setattr("sessionha.session.session.read", noted)
    session = stored()
    assert session["n"] == 1
    assert read == [encode(1, "n")]


@faces
def test_both_faces_are_mappings_with_the_same_content(face: Callable[[Session], Face]) -> None:
    view = face(stored())
    assert dict(view) == STORED
    assert view == STORED
    assert (len(view), "n" in view, "x" in view, view.get("x", 7)) == (3, True, False, 7)
    with pytest.raises(KeyError):
        view["x"]
    with pytest.raises(KeyError):
        del view["x"]


def test_a_change_through_one_face_is_seen_in_the_other() -> None:
    session = stored()
    session["early"] = 1
    face = session.as_dict()
    face["a"] = 1
    session["b"] = 2
    del session["n"]
    assert dict(face) == dict(session) == {"user": "ada", "cart": STORED["cart"], "early": 1,
                                           "a": 1, "b": 2}  # fmt: skip
    session.clear()
    assert not face
    assert change(session) == SessionChange(b"old-key", destroy=True)


def test_the_dict_is_complete_for_code_that_reads_its_storage() -> None:
    face = stored().as_dict()
    assert isinstance(face, dict)
    assert json.loads(json.dumps(face)) == STORED
    assert msgspec.json.decode(msgspec.json.encode(face)) == STORED
    assert face | {} == STORED
    assert {**face} == STORED
    assert face.copy() == STORED


@pytest.mark.parametrize(
    ("use", "accessed", "modified"),
    [
        (lambda s: None, False, False),
        (lambda s: s.get("n"), True, False),
        (lambda s: s["n"], True, False),
        (lambda s: "n" in s, True, False),
        (list, True, False),
        (bool, True, False),
        (lambda s: s.items(), True, False),
        (lambda s: s | {}, True, False),
        (lambda s: {} | s, True, False),
        (lambda s: {**s}, True, False),
        (lambda s: [*reversed(s)], True, False),
        (json.dumps, True, False),
        (lambda s: s.pop("x", None), True, False),
        (lambda s: s.setdefault("n", 5), True, False),
        (lambda s: s.setdefault("x", 5), True, True),
        (lambda s: s.pop("n"), True, True),
        (lambda s: s.popitem(), True, True),
        (lambda s: s.update(a=1), True, True),
        (lambda s: s.__ior__({"a": 1}), True, True),
        (lambda s: s.__delitem__("n"), True, True),
        (lambda s: s.clear(), True, True),
    ],
)
def test_the_dict_knows_how_it_was_used(
    use: Callable[[DictSession], object], accessed: bool, modified: bool
) -> None:
    session = stored()
    face = session.as_dict()
    use(face)
    prepared(session)
    assert (face.accessed, face.modified) == (accessed, modified)
    assert (session.accessed, session.modified) == (accessed, modified)


def test_a_plain_dict_in_its_place_is_the_session() -> None:
    session = stored()
    session.as_dict()
    session.adopt({"n": 1, "fresh": []})
    found = change(session)
    assert found is not None
    assert found.deletes == ("cart", "user")
    assert found.written == ["fresh"]


def test_an_empty_plain_dict_in_its_place_ends_the_session() -> None:
    session = stored()
    session.as_dict()
    session.adopt({})
    assert change(session) == SessionChange(b"old-key", destroy=True)


@pytest.mark.parametrize("name", [1, None, ("a",), "x" * 257, "é" * 129, "\ud800"])
def test_names_are_short_texts(name: Any) -> None:
    session = Session()
    with pytest.raises(ElementNotEncodable):
        session[name] = 1
    other = Session()
    other.as_dict()[name] = 1
    with pytest.raises(ElementNotEncodable):
        prepared(other)


def test_its_text_tells_no_secret() -> None:
    session = stored()
    assert "ada" not in repr(session)
    assert "old-id" not in repr(session)


def test_age_and_creation() -> None:
    session = stored()
    assert session.age == 5.0
    assert session.created is not None
    assert session.created.timestamp() == 95.0
    assert Session().created is None


# --- what cannot be read ---


def spoilt() -> Session:
    elements = {"bad": ("value", b"\xc1"), "n": ("value", encode(1, "n"))}
    return Session(Known("old-id", b"old-key", elements))


@faces
def test_an_undecodable_element_does_not_spoil_the_others(
    face: Callable[[Session], Face],
) -> None:
    """System 2 (k)."""
    session = spoilt()
    view = face(session)
    assert view["n"] == 1
    assert list(view) == ["n"]
    assert "bad" in view
    uses: list[Callable[[], object]] = [
        lambda: view["bad"],
        lambda: view.get("bad"),
        lambda: view.pop("bad", 1),
        lambda: view.setdefault("bad", 1),
    ]
    for use in uses:
        with pytest.raises(ElementNotReadable, match="bad"):
            use()
    view["n"] = 2
    found = change(session)
    assert found is not None
    assert found.deletes == ()
    assert puts(session) == {"n": 2}
    assert session.unreadable == ("bad",)


@faces
def test_an_undecodable_element_can_be_replaced_and_deleted(
    face: Callable[[Session], Face],
) -> None:
    session = spoilt()
    face(session)["bad"] = 5
    assert puts(session) == {"bad": 5}
    assert face(session)["bad"] == 5
    del face(session)["bad"]
    found = change(session)
    assert found is not None
    assert found.deletes == ("bad",)
    session = spoilt()
    del face(session)["bad"]
    found = change(session)
    assert found is not None
    assert found.deletes == ("bad",)


# --- what is unavailable ---

USES: list[Callable[[Any], object]] = [
    lambda s: s["a"],
    lambda s: s.get("a"),
    lambda s: s.update(a=1),
    lambda s: s.clear(),
    lambda s: "a" in s,
    list,
    len,
    bool,
    dict,
    lambda s: s.pop("a", None),
    lambda s: s.setdefault("a", 1),
    lambda s: s.items() and list(s.items()),
    lambda s: s == {},
]


@pytest.mark.parametrize("use", USES)
def test_every_use_of_an_unavailable_session_raises(use: Callable[[Any], object]) -> None:
    session = Session(failure=SessionUnavailable("n2 does not answer"))
    for face in (session, UnavailableSession(session)):
        with pytest.raises(SessionUnavailable):
            use(face)
    assert session.accessed


def test_an_unavailable_session_cannot_be_taken_for_an_empty_dict() -> None:
    face = UnavailableSession(Session(failure=SessionUnavailable("no")))
    with pytest.raises(SessionUnavailable):
        face.mark_accessed()
    with pytest.raises(TypeError):
        json.dumps(face)
    assert not isinstance(face, dict)


# --- what reaches into the dict from C -----------------------------------------------------------


class Basket(msgspec.Struct):
    marks: set[str]


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("flag", True, 1),
        ("flags", [1], [True]),
        ("marks", {"a"}, frozenset({"a"})),
        ("price", Decimal("1.0"), Decimal("1.00")),
    ],
)
def test_an_equal_value_of_another_kind_is_noticed(name: str, before: Any, after: Any) -> None:
    session = stored(**{name: before})
    values = session.as_dict()
    values.get(name, None)
    dict.__setitem__(values, name, after)
    assert not session.is_untouched()
    found = puts(session)[name]
    assert (type(found), repr(found)) == (type(after), repr(after))


def test_a_set_that_was_reached_without_asking_for_it_is_noticed() -> None:
    session = stored(marks={"a"}, n=1)
    values = session.as_dict()
    assert values["n"] == 1
    msgspec.convert(values, Basket, strict=False)
    dict.__getitem__(values, "marks").add("b")
    assert not session.is_untouched()
    assert puts(session) == {"marks": {"a", "b"}}


def test_elements_in_another_order_are_no_change() -> None:
    session = stored(a=1, b=2)
    values = session.as_dict()
    value = dict.pop(values, "a")
    dict.__setitem__(values, "a", value)
    assert not session.is_untouched()
    assert change(session) is None


def test_frameworks_may_mark_it_by_assignment() -> None:
    """`session.modified = True` is how Django's and Flask's applications say it."""
    session = stored()
    values = session.as_dict()
    seen = []
    for mark in (False, True):
        values.modified = mark
        seen.append((session.modified, session.accessed))
    assert seen == [(False, False), (True, True)]
    assert change(session) is None

"""Data managers: chosen by type, looked up by name, and open to users."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from typing import Any

import pytest

from sessionha.errors import ElementNotEncodable, InvalidSettings, OperationRefused
from sessionha.values import ABSENT, Applied, DataManager, codec, managers, register
from sessionha.values.codec import Undecodable, encode
from sessionha.values.managers import changed, manager_for, operation_between, read


@dataclass
class Money:
    """A type of an application."""

    cents: int


class MoneyManager(DataManager):
    """Money that is added up, and never spent below zero."""

    name = "money"
    types = (Money,)

    def pack(self, value: Money) -> int:
        if value.cents < 0:
            raise ValueError("money cannot be negative")
        return value.cents

    def unpack(self, plain: Any) -> Money:
        return Money(int(plain))

    def difference(self, before: Any, after: Any) -> Any:
        return after - (0 if before is ABSENT else before)

    def apply(self, value: Any, operation: Any, *, strict: bool = False) -> Applied:
        del strict
        total = (0 if value is ABSENT else value) + operation
        return Applied(max(total, 0), total < 0)


@pytest.fixture
def money(monkeypatch: pytest.MonkeyPatch) -> DataManager:
    monkeypatch.setattr(managers, "_by_name", dict(managers._by_name))
    monkeypatch.setattr(managers, "_by_type", dict(managers._by_type))
    monkeypatch.setattr(codec, "managed", {*codec.managed})
    monkeypatch.setattr(managers, "managed", codec.managed)
    made = MoneyManager()
    register(made)
    return made


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (1, "value"),
        ("x", "value"),
        ((1,), "value"),
        (frozenset(), "value"),
        ({}, "map"),
        (OrderedDict(), "map"),
        (defaultdict(list), "map"),
        ([], "list"),
        (set(), "set"),
    ],
)
def test_the_type_of_the_value_chooses(value: Any, name: str) -> None:
    assert manager_for(value).name == name


def test_a_counter_stays_one_as_long_as_it_is_a_number() -> None:
    assert manager_for(5, "counter").name == "counter"
    assert manager_for(True, "counter").name == "value"
    assert manager_for([], "counter").name == "list"


def test_values_of_a_registered_type_are_stored_and_read(money: DataManager) -> None:
    raw = encode(money.pack(Money(5)), "purse")
    assert manager_for(Money(5)) is money
    assert read("money", raw) == Money(5)
    operation = operation_between("money", raw, encode(3, "purse"))
    assert operation is not None
    assert changed("money", encode(10, "purse"), operation) == (encode(8, "purse"), 0)
    assert changed("money", encode(1, "purse"), operation) == (encode(0, "purse"), 1)


@pytest.mark.usefixtures("money")
def test_a_type_inside_an_element_is_refused_with_the_remedy_that_helps() -> None:
    with pytest.raises(ElementNotEncodable, match=r"'cart\[0\]'.*Money; its data manager applies"):
        encode([Money(5)], "cart")
    with pytest.raises(ElementNotEncodable, match="or register a data manager"):
        encode(object(), "cart")
    with pytest.raises(ElementNotEncodable, match=r"UUID, …\)$"):
        encode([object()], "cart")


@pytest.mark.usefixtures("money")
def test_what_its_manager_cannot_read_is_undecodable() -> None:
    assert isinstance(read("money", encode("much", "purse")), Undecodable)


class Broken(MoneyManager):
    """Code of an application, with mistakes."""

    name = "broken"

    def unpack(self, plain: Any) -> Money:
        return Money(plain.nothing)

    def apply(self, value: Any, operation: Any, *, strict: bool = False) -> Applied:
        raise AttributeError("nothing")


@pytest.mark.usefixtures("money")
def test_a_mistake_in_a_manager_spoils_its_elements_only() -> None:
    managers._by_name["broken"] = Broken()
    found = read("broken", encode(1, "purse"))
    assert isinstance(found, Undecodable)
    assert "AttributeError" in found.why
    with pytest.raises(OperationRefused, match="`broken`: AttributeError"):
        changed("broken", encode(1, "purse"), encode(1, "purse"))


def test_elements_of_an_unknown_manager_are_not_touched() -> None:
    found = read("from-next-year", encode(1, "x"))
    assert isinstance(found, Undecodable)
    assert "from-next-year" in found.why
    with pytest.raises(OperationRefused, match="from-next-year"):
        changed("from-next-year", encode(1, "x"), encode([], "x"))


class Unnamed(DataManager):
    name = "no name"


class Taken(DataManager):
    name = "map"
    types = (dict,)


def test_a_mistake_in_a_registration_is_named() -> None:
    with pytest.raises(InvalidSettings, match="'no name' must be"):
        register(Unnamed())
    with pytest.raises(InvalidSettings, match=r"`map` exists already(.|\n)*type dict belong"):
        register(Taken())


@pytest.mark.parametrize(
    ("manager", "stored", "operation"),
    [
        ("value", 1, [["set", [], 2]]),
        ("counter", 1, [["set", [], "x"]]),
        ("map", {}, [["set", [], 1]]),
        ("list", [1], [["remove", []]]),
        ("set", set(), [["append", [], [1]]]),
    ],
)
def test_an_element_keeps_its_type(manager: str, stored: Any, operation: Any) -> None:
    with pytest.raises(OperationRefused):
        changed(manager, encode(stored, "x"), encode(operation, "x"), strict=True)

"""Addresses of sessions and elements: what is printed is parsed, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionha.values.address import DataAddress

SESSION = DataAddress(b"\xfb" * 12, b"\x01" * 16)
TEXT = "-_v7-_v7-_v7-_v7.AQEBAQEBAQEBAQEBAQEBAQ"

names = st.text(st.characters(exclude_categories=["Cs"]))
addresses = st.builds(
    DataAddress,
    st.binary(min_size=12, max_size=12),
    st.binary(min_size=16, max_size=16),
    st.sampled_from(["map", "value", "shop.Price-2"]),
    names,
    st.lists(names).map(tuple),
)


@given(addresses)
def test_every_address_is_parsed_as_it_was_printed(address: DataAddress) -> None:
    assert DataAddress.parse(str(address)) == address
    assert DataAddress.parse(str(address.session)) == address.session


@given(addresses)
def test_a_printed_address_has_only_what_a_url_path_may_have(address: DataAddress) -> None:
    """Also no segment that a URL library would resolve as a folder."""
    text = str(address)
    assert text.isascii()
    assert not set(text) & set(' ?#"<>\\^`{|}')
    assert not {".", ".."} & set(text.split("/"))


def test_it_is_written_like_this() -> None:
    assert str(SESSION) == f"/{TEXT}"
    assert str(SESSION.at("map", "cart", "lines", 0)) == f"/map/{TEXT}/cart/lines/0"
    assert (
        str(SESSION.at("value", "a/b %", "ü", "..")) == f"/value/{TEXT}/a%2Fb%20%25/%C3%BC/%2E%2E"
    )
    assert str(SESSION.at("value", "")) == f"/value/{TEXT}/"


def test_other_spellings_of_the_same_are_accepted() -> None:
    assert DataAddress.parse(f"/map/{TEXT}/%63art/a:b/%c3%bc") == SESSION.at(
        "map", "cart", "a:b", "ü"
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "begins with"),
        ("map/x", "begins with"),
        ("/", "in base64"),
        ("/map", "in base64"),
        (f"/map/{TEXT}", "<element>"),
        (f"/m%61p/{TEXT}/x", "data manager's name"),
        (f"//{TEXT}/x", "data manager's name"),
        (f"/map/{TEXT}A/x", "in base64"),
        (f"/map/{TEXT[:-1]}/x", "in base64"),
        (f"/map/{TEXT[:-1]}R/x", "in base64"),
        (f"/map/{TEXT.replace('.', '/')}/x", "in base64"),
        (f"/map/{TEXT}=/x", "in base64"),
        (f"/map/ü{TEXT[1:]}/x", "in base64"),
        (f"/map/{TEXT}/%zz", "percent-encoded"),
        (f"/map/{TEXT}/%", "percent-encoded"),
        (f"/map/{TEXT}/a b", "percent-encoded"),
        (f"/map/{TEXT}/ü", "percent-encoded"),
        (f"/map/{TEXT}/%ff", "UTF-8"),
        (f"/map/{TEXT}/x/%ed%a0%80", "UTF-8"),
    ],
)
def test_anything_else_is_refused_with_a_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        DataAddress.parse(text)


def test_an_address_does_not_show_itself() -> None:
    assert repr(SESSION.at("map", "canary")) == "<DataAddress>"

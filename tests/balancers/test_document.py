"""The document that balancers are configured from, and what refuses to be one."""

from __future__ import annotations

from pathlib import Path

import pytest

from sessionha.balancers.base import Options
from sessionha.balancers.document import Document, configured, document_of, keys_of, read
from sessionha.balancers.kinds import KINDS
from sessionha.errors import InvalidSettings
from sessionha.identity import ViewID, server_name
from sessionha.settings import Settings
from sessionha.view import EngineAddress, Member, View
from tests.balancers.vectors import SECRETS, route_cookie, settings, view_of

DESCRIPTION = """
[cluster]
health_path = "/health"
[[node]]
id = "n1"
peer = "10.0.0.1:7946"
url = "http://10.0.0.1:8000"
weight = 3
[[node]]
id = "n2"
peer = "10.0.0.2:7946"
url = "http://[fd00::2]"
role = "spare"
[[node]]
id = "w"
peer = "10.0.0.3:7946"
role = "witness"
"""


@pytest.fixture
def described(tmp_path: Path) -> Settings:
    file = tmp_path / "cluster.toml"
    file.write_text(DESCRIPTION, encoding="utf-8")
    return Settings.observe({}, config=file, secret=list(SECRETS))


def states(document: Document) -> dict[str, str]:
    return {server.node: server.state for server in document.servers}


def test_a_description_makes_a_document_in_which_everybody_takes_clients(
    described: Settings,
) -> None:
    document = configured(described)
    assert states(document) == {"n1": "up", "n2": "up"}
    assert [server.node for server in document.ready] == ["n1"]
    assert [server.node for server in document.spares] == ["n2"]
    assert [server.address for server in document.servers] == ["10.0.0.1:8000", "[fd00::2]:80"]
    assert document.health.path == "/health/readyz"
    assert (document.view, document.servers[0].weight) == (0, 3)


def test_members_are_up_or_drain_and_the_others_down_or_gone(described: Settings) -> None:
    view = view_of({"n1": "drain"}, {"n1": "http://10.0.0.1:8000"}, number=7)
    assert states(document_of(view, described)) == {"n1": "drain", "n2": "down"}
    left = View(ViewID(8, ""), view.members, departed=(("n2", "left"),))
    document = document_of(left, described)
    assert states(document) == {"n1": "drain", "n2": "gone"}
    assert document.servers[0].incarnation == "inc-n1"
    assert document.view == 8


def test_engines_with_addresses_of_their_own_are_servers_and_the_nodes_name_leads_to_one() -> None:
    engines = tuple(EngineAddress(slot, "web", f"http://10.0.0.1:900{slot}") for slot in "01")
    member = Member("n1", "inc", ViewID(1, ""), "10.0.0.1:1", engines=engines)
    document = document_of(View(ViewID(1, ""), (member,)), settings())
    first, second = document.servers
    assert (first.name, second.name) == ("n1--e0", "n1--e1")
    assert "n1" in first.names
    assert server_name("n1", "7") in first.names, "an engine that is gone leads to its node"


def test_the_document_is_read_as_it_was_written_and_its_version_is_of_its_content(
    described: Settings,
) -> None:
    document = configured(described)
    assert read(document.text) == document
    assert read(document.text).version == document.version
    other = document_of(view_of({"n1": "drain"}, {"n1": "http://10.0.0.1:8000"}), described)
    assert other.version != document.version


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b'{"format": 1, "cluster": 3}'])
def test_what_is_no_document_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="not a document"):
        read(text)


@pytest.mark.parametrize(
    ("usual", "other"),
    [
        (b'"cluster": "', b'"cluster": "x\\ninclude /etc/passwd;'),
        (b'"name": "hsr"', b'"name": "hsr;"'),
        (b"{43})$", b"{43})$'\\n"),
        (b'"name": "n1"', b'"name": "n1 {"'),
        (b'"aliases": []', b'"aliases": ["n1;"]'),
        (b'"path": "/health', b'"path": "/\\n    server evil 10.6.6.6:80'),
        (b"//10.0.0.1:8000", b"//10.0.0.1;}:8000"),
        (b"//10.0.0.1:8000", b"//10.0.0.1:80000"),
    ],
)
def test_a_document_that_would_be_more_than_names_in_a_configuration_is_refused(
    usual: bytes, other: bytes, described: Settings
) -> None:
    text = configured(described).text
    assert usual in text
    with pytest.raises(ValueError, match="names or paths that are none"):
        read(text.replace(usual, other, 1))


@pytest.mark.parametrize("url", ["http://a;}b", "http://a b", "http://a:99999", "http://$host"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_address_that_is_none_is_in_no_configuration(kind: str, url: str) -> None:
    """As a node may tell that somebody has taken over."""
    told = document_of(view_of({"n1": "up"}, {"n1": url}), settings())
    options = Options(place=Path("/nowhere"), verify=False)
    with pytest.raises(InvalidSettings, match="n1: `url`"):
        KINDS[kind].files(told, {}, options)


def test_a_later_format_is_refused(described: Settings) -> None:
    text = configured(described).text.replace(b'"format": 1', b'"format": 2')
    with pytest.raises(ValueError, match="format 2"):
        read(text)


def test_no_key_is_in_the_document_and_the_signing_one_is_the_first_of_the_keys(
    described: Settings,
) -> None:
    keys = keys_of(described)
    assert len(keys) == 2
    assert f".{next(iter(keys))}." in route_cookie(["n1"])
    told = configured(described).text.decode()
    assert not any(key.hex() in told for key in keys.values())


def test_nodes_without_the_address_of_an_application_are_named() -> None:
    with pytest.raises(InvalidSettings, match=r"n1: where the application is.*add `url`"):
        configured(settings())

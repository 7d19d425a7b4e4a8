"""The static description: both forms, and every mistake at once."""

from __future__ import annotations

import pytest

from sessionha.errors import InvalidSettings
from sessionha.topology.description import Description, same_host
from sessionha.view import EngineAddress


def test_the_short_form_keeps_the_order_and_takes_the_peer_address() -> None:
    described = Description.parse("n2=http://10.0.0.2:7946, n1=https://[fd00::1]:7946/,n3=h:1")
    assert described.order == ("n2", "n1", "n3")
    assert described.addresses["n1"] == "[fd00::1]:7946"
    assert described.nodes[0].host == "10.0.0.2"


def test_the_hash_depends_on_the_order() -> None:
    assert Description.parse("a=h:1,b=h:2").hash == Description.parse("a=h:1, b=http://h:2").hash
    assert Description.parse("a=h:1,b=h:2").hash != Description.parse("b=h:2,a=h:1").hash


def test_a_table_names_every_part() -> None:
    table = {
        "id": "n1", "peer": "http://10.0.0.1:7946", "url": "http://10.0.0.1:8000/", "zone": "a",
        "host": "rack1", "weight": 2, "role": "spare",
    }  # fmt: skip
    member = Description.of_tables([table]).nodes[0].member("i")
    assert (member.url, member.zone, member.host) == ("http://10.0.0.1:8000", "a", "rack1")
    assert (member.weight, member.role, member.ready) == (2, "spare", True)


def test_a_table_names_the_engines_of_a_node() -> None:
    (node,) = Description.of_tables(
        [
            {
                "id": "n1",
                "peer": "10.0.0.1:7946",
                "engines": [
                    {"url": "http://10.0.0.1:8001/"},
                    {"type": "api", "url": "http://10.0.0.1:8002", "id": "jobs"},
                ],
            }
        ]
    ).nodes
    assert node.member("i").engines == (
        EngineAddress("0", "web", "http://10.0.0.1:8001"),
        EngineAddress("jobs", "api", "http://10.0.0.1:8002"),
    )


def test_mistakes_in_engines_are_told_at_once() -> None:
    url = "http://10.0.0.1:8001"
    entries = [
        {"url": url},
        {"url": url, "tipe": "web"},
        {"id": "0", "type": 5},
        {"url": "ftp://x"},
    ]
    with pytest.raises(InvalidSettings) as caught:
        Description.of_tables(
            [
                {"id": "n1", "peer": "10.0.0.1:7946", "engines": entries},
                {"id": "n2", "peer": "10.0.0.2:7946", "engines": ["web"]},
            ]
        )
    text = str(caught.value)
    for part in (
        f"`engines`, '1': another engine has its `url` {url}",
        "`engines`, '1': unknown key `tipe`; did you mean `type`?",
        "`engines`, '0': `type` must be a name, not 5",
        "`engines`, '0' stands twice",
        "`engines`, '3': `url` must be http://HOST[:PORT]",
        '`engines` must be a list such as [{type = "web"',
    ):
        assert part in text


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(InvalidSettings) as caught:
        Description.of_tables(
            [
                {"id": "n1", "peer": "10.0.0.1:7946"},
                {"id": "n1", "peer": "10.0.0.2:7946"},
                {"id": "n2", "peer": "10.0.0.1:7946"},
                {"id": "bad name", "peer": "nowhere", "wieght": 2},
                {"id": "n3", "peer": "h:1", "weight": 0, "role": "boss", "url": "ftp://x"},
                {"id": "n4", "peer": 5},
            ]
        )
    text = str(caught.value)
    for part in (
        "'n1' stands twice",
        "have one peer address 10.0.0.1:7946",
        "did you mean `weight`",
        "`id` must be 1 to 64",
        "`peer` must be http://HOST:PORT",
        "`weight` must be",
        "`role` must be one of",
        "`url` must be",
        "`peer` must be text",
    ):
        assert part in text


@pytest.mark.parametrize(
    "text", ["", "n1", "n1=", "n1=http://h", "n1=http://h:99999", "n1=ftp://h:1"]
)
def test_a_short_form_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidSettings):
        Description.parse(text)


def test_only_loopback_and_the_same_host_prove_a_death() -> None:
    assert same_host("127.0.0.1:1", "localhost:2")
    assert same_host("10.0.0.1:1", "10.0.0.1:2")
    assert not same_host("10.0.0.1:1", "10.0.0.2:1")
    assert not same_host("127.0.0.1:1", "10.0.0.2:1")

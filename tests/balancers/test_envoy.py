"""Envoy: what its configuration cannot be made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from sessionha.balancers.base import Options
from sessionha.balancers.document import document_of, keys_of
from sessionha.balancers.envoy import ROUTES, SERVERS, Envoy
from sessionha.errors import InvalidSettings
from tests.balancers.vectors import settings, view_of

OPTIONS = Options(place=Path("/etc/envoy"), verify=True)


def files(url: str, envoy: Envoy) -> dict[str, str]:
    told = document_of(view_of({"n1": "up"}, {"n1": url}), settings())
    made = envoy.files(told, keys_of(settings()), OPTIONS)
    return {name: file.text or "" for name, file in made.items()}


def test_a_host_is_looked_up_because_envoy_takes_addresses_only() -> None:
    made = files("http://web-0.web:8000", Envoy({"web-0.web": "10.0.0.7"}.__getitem__))
    assert '"10.0.0.7"' in made[SERVERS]
    assert '"n1":"10.0.0.7:8000"' in made[ROUTES]


def test_a_host_without_an_address_is_named() -> None:
    def nobody(host: str) -> str:
        raise OSError("unknown")

    with pytest.raises(InvalidSettings, match=r"web-0\.web of n1 has none: unknown"):
        files("http://web-0.web:8000", Envoy(nobody))


def test_an_address_of_ipv6_is_written_as_envoy_reads_it() -> None:
    made = files("http://[fd00::7]:8000", Envoy())
    assert '"address":"fd00::7"' in made[SERVERS]
    assert '"n1":"[fd00::7]:8000"' in made[ROUTES]


def test_servers_that_speak_https_are_refused() -> None:
    with pytest.raises(InvalidSettings, match="speak http"):
        files("https://10.0.0.1:8443", Envoy())


def test_only_the_file_with_keys_is_private_and_the_script_alone_needs_a_restart() -> None:
    told = document_of(view_of({"n1": "up"}, {"n1": "http://127.0.0.1:1"}), settings())
    made = Envoy().files(told, keys_of(settings()), OPTIONS)
    assert [name for name, file in made.items() if file.private] == [ROUTES]
    assert [name for name, file in made.items() if not file.live] == ["sessionha-route.lua"]

"""Which discovery a setting means: `dns://…` and `redis://…` are read, shown and made here."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final
from urllib.parse import parse_qs, urlsplit

from sessionha.discovery.base import Discovery
from sessionha.errors import InvalidSettings
from sessionha.kinds import show_nodes

SCHEMES: Final = ("dns", "redis", "rediss")

DNS_PORT: Final = 53

_DNS_NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?\.?")
_ADDRESS: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253}):[0-9]{1,5}")


@dataclass(frozen=True)
class DNSSource:
    """A name whose A and AAAA records are asked for, or, without a port, its SRV records."""

    name: str
    port: int = 0
    server: tuple[str, int] | None = None
    """Address and port of the DNS server; None: those of the machine."""

    def __str__(self) -> str:
        return f"dns://{self.name}:{self.port}" if self.port else f"dns://{self.name}"


@dataclass(frozen=True)
class RedisSource:
    """A Redis server, in the form that its client reads."""

    url: str = field(repr=False)
    """May carry a password."""

    def __str__(self) -> str:
        return show_nodes(self.url)


Source = DNSSource | RedisSource


def is_source(text: str) -> bool:
    """Whether a value of `nodes` asks for a discovery and is no list."""
    scheme, slashes, _ = text.partition("://")
    return bool(slashes) and scheme.lower() in SCHEMES


def read_source(text: str) -> Source:
    """What a value of `nodes` means. ValueError with words that complete "`nodes` must be …"."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:  # a port that is no number
        parts, host, port = urlsplit(""), None, None
    if host and parts.scheme == "dns":
        return _dns_source(host, port, parts.path, parts.query)
    if host and parts.scheme in ("redis", "rediss") and not set(text) & set(", "):
        return RedisSource(text)
    raise ValueError("must be dns://NAME:PORT, dns://_SERVICE._PROTOCOL.NAME or redis://HOST:PORT")


def _dns_source(name: str, port: int | None, path: str, query: str) -> DNSSource:
    options = parse_qs(query, keep_blank_values=True)
    if path not in ("", "/") or not _DNS_NAME.fullmatch(name) or port == 0:
        raise ValueError(
            "must be dns://NAME:PORT (A and AAAA records) or dns://_SERVICE._PROTOCOL.NAME"
            " (SRV records)"
        )
    if options.keys() - {"server"}:
        raise ValueError("must have no option but `server`, the DNS server's address")
    given = options.get("server")
    return DNSSource(name, port or 0, None if given is None else _server(given[-1]))


def _server(text: str) -> tuple[str, int]:
    """Address and port of a DNS server, `10.0.0.10`, `10.0.0.10:53` or `[::1]:53`."""
    try:
        parts = urlsplit(f"//{text}")
        return str(ip_address(parts.hostname or "")), parts.port or DNS_PORT
    except ValueError:
        raise ValueError("must have an IP address as `server`, such as 10.0.0.10:53") from None


def is_address(text: str) -> bool:
    """Whether text from outside is `host:port`."""
    return _ADDRESS.fullmatch(text) is not None and 0 < int(text.rpartition(":")[2]) < 65_536


def open_source(source: Source, cluster: str) -> Discovery:
    """The discovery that asks the source; nothing is opened before it is asked.

    Raises:
        InvalidSettings: its library is not installed, or cannot read the setting.
    """
    try:
        if isinstance(source, DNSSource):
            from sessionha.discovery.dns import DNS

            return DNS(source)
        from sessionha.discovery.redis import Redis

        return Redis(source, cluster)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        extra = {"dns": "dns", "redis": "redis"}.get(module)
        if extra is None:
            raise
        raise InvalidSettings(
            [
                f"`nodes` = {source} needs the extra `{extra}`, which is not installed:"
                f" pip install 'sessionha[{extra}]'"
            ]
        ) from error
    except ValueError as error:
        raise InvalidSettings([f"`nodes` = {source} cannot be used: {error}"]) from None

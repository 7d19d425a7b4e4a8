"""Kinds of settings: how a value is read from text, TOML or Python, and how it is shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar, get_args
from urllib.parse import urlsplit

from sessionha.identity import is_name
from sessionha.quantities import read_duration, read_size, show_duration, show_size
from sessionha.virtual import VirtualServers

T_co = TypeVar("T_co", covariant=True)

PolicyWord = Literal["zone", "least-load", "weighted", "round-robin", "hash"]
"""What a router goes by when it chooses a server for a new client, in this order."""

_HEALTH_PATH: Final = re.compile(r"/[A-Za-z0-9._~/-]*")
_LAST: Final = frozenset({"weighted", "round-robin", "hash"})
"""Each of these leaves one server, so there is one of them at most."""

DEFAULT_POLICY: Final[tuple[PolicyWord, ...]] = ("zone", "least-load", "weighted")


@dataclass(frozen=True)
class Kind(Generic[T_co]):
    """A type of values. `read` raises ValueError with words that complete "must be …"."""

    name: str
    read: Callable[[object], T_co]
    show: Callable[[Any], str] = str


def _read_text(value: object) -> str:
    if isinstance(value, str | Path) and str(value).strip():
        return str(value).strip()
    raise ValueError("must be text that is not empty")


def _read_name(value: object) -> str:
    if isinstance(value, str) and is_name(value):
        return value
    raise ValueError("must be 1 to 64 letters, digits, `.`, `_` or `-`, no such sign at its ends")


def _read_path(value: object) -> Path:
    return Path(_read_text(value)).expanduser()


def _read_address(value: object) -> str:
    """`host:port`, or nothing for `off`."""
    if value in ("off", ""):
        return ""
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if host and port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535:
        return f"{host}:{int(port)}"
    raise ValueError("must be `host:port` such as 0.0.0.0:7946 or [::]:7946, or `off`")


def _read_secrets(value: object) -> tuple[bytes, ...]:
    """One secret, or several: a list, or text with commas or white space between them."""
    if isinstance(value, str):
        value = value.replace(",", " ").split()
    if isinstance(value, bytes):
        value = [value]
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("must be a secret or a list of secrets")
    if not all(isinstance(each, str | bytes) and each for each in value):
        raise ValueError("must be a list of texts that are not empty")
    return tuple(each.encode() if isinstance(each, str) else each for each in value)


def _read_nodes(value: object) -> str:
    """The short form as text, or where to look; a mapping or a list of parts is joined."""
    if isinstance(value, Mapping):
        value = [f"{node}={url}" for node, url in value.items()]
    if isinstance(value, list | tuple) and value and all(isinstance(v, str) for v in value):
        value = ",".join(value)
    return _read_text(value)


def show_nodes(value: str) -> str:
    """As it was written, without what may be a password in the URL of a Redis server."""
    parts = urlsplit(value)
    if parts.scheme not in ("redis", "rediss"):
        return value
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _read_cookie_name(value: object) -> str:
    text = _read_text(value)
    if text.isascii() and text.replace("_", "a").replace("-", "a").isalnum():
        return text
    raise ValueError("must be a cookie name of letters, digits, `_` and `-`")


def is_health_path(text: str) -> bool:
    """Whether it is a path that means the same in every balancer's configuration."""
    return _HEALTH_PATH.fullmatch(text) is not None


def _read_health_path(value: object) -> str:
    if value in ("off", ""):
        return ""
    if isinstance(value, str) and is_health_path(value):
        return value
    raise ValueError('must be a path such as "/" or "/internal", or `off`')


def _read_policy(value: object) -> tuple[PolicyWord, ...]:
    given = _words(value)
    words = tuple(word for word in get_args(PolicyWord) if word in given)
    if not given or list(words) != given or len(_LAST & set(given)) > 1:
        raise ValueError(
            "must be words in this order, with commas between them: `zone`, `least-load`, and"
            " `weighted`, `round-robin` or `hash`; for instance zone,least-load"
        )
    return words


def _read_engine_types(value: object) -> tuple[tuple[str, str], ...]:
    """Path prefixes and types, the longest prefix first; a type alone stands for every path."""
    pairs = value.items() if isinstance(value, Mapping) else map(_pair, _words(value))
    found = {str(prefix).rstrip("/") or "/": engine_type for prefix, engine_type in pairs}
    for prefix, engine_type in found.items():
        if not prefix.startswith("/") or not _is_name(engine_type):
            raise ValueError("must be PREFIX=TYPE, such as /api=api, or a TYPE for every path")
    return tuple(sorted(found.items(), key=lambda pair: -len(pair[0])))


def _read_virtual(value: object) -> VirtualServers:
    """A name, or hosts and paths with a name each: a mapping, or text."""
    if isinstance(value, VirtualServers):
        return value
    if isinstance(value, str) and is_name(value):
        return VirtualServers(value)
    if isinstance(value, Mapping):
        pairs = [(str(place), str(name)) for place, name in value.items()]
    else:
        words = [word.partition("=") for word in _words(value)]
        pairs = [(place, name) for place, equals, name in words if equals]
        if not words or len(pairs) < len(words):
            raise ValueError(
                "must be a name, or HOST=NAME and /PATH=NAME with commas between them, and *=NAME"
                " for the rest"
            )
    return VirtualServers.read(pairs)


def _pair(word: str) -> tuple[str, str]:
    prefix, equals, engine_type = word.rpartition("=")
    return (prefix if equals else "/"), engine_type


def _is_name(value: object) -> bool:
    return isinstance(value, str) and is_name(value)


def _words(value: object) -> list[str]:
    """Text with commas between its words, or a list of such texts."""
    found: list[str] = []
    for text in value if isinstance(value, list | tuple) else [value]:
        if not isinstance(text, str):
            raise ValueError("must be text, or a list of texts")
        found += filter(None, text.replace(" ", "").split(","))
    return found


def _at_least(low: float) -> Callable[[object], float]:
    def read(value: object) -> float:
        seconds = read_duration(value)
        if seconds < low:
            raise ValueError(f"must be at least {show_duration(low)}")
        return seconds

    return read


def count(low: int, high: int) -> Kind[int]:
    """A whole number in a range."""

    def read(value: object) -> int:
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return Kind("number", read)


def size(low: int) -> Kind[int]:
    """A number of bytes, at least `low`."""

    def read(value: object) -> int:
        found = read_size(value)
        if found < low:
            raise ValueError(f"must be at least {show_size(low)}")
        return found

    return Kind("size", read, show_size)


def choice(*options: str, refused: Mapping[str, str] | None = None) -> Kind[str]:
    """One of a few words. `refused`: words that are known, and why they are not accepted."""

    def read(value: object) -> str:
        if isinstance(value, str) and value in options:
            return value
        listed = " or ".join(f'"{option}"' for option in options)
        why = (refused or {}).get(value) if isinstance(value, str) else None
        raise ValueError(f"must be {listed}" + (f": {why}" if why else ""))

    return Kind(" / ".join(f"`{option}`" for option in options), read)


TEXT: Final = Kind("text", _read_text)
NAME: Final = Kind("name", _read_name)
PATH: Final = Kind("path", _read_path)
ADDRESS: Final = Kind("`host:port` / `off`", _read_address, lambda value: value or "off")
SECRETS: Final = Kind("list of texts", _read_secrets, lambda value: "set" if value else "")
NODES: Final = Kind("nodes", _read_nodes, show_nodes)
DURATION: Final = Kind("duration", _at_least(0), show_duration)
INTERVAL: Final = Kind("duration", _at_least(0.01), show_duration)
COOKIE_NAME: Final = Kind("cookie name", _read_cookie_name)
HEALTH_PATH: Final = Kind("path / `off`", _read_health_path, lambda value: value or "off")
POLICY: Final = Kind("words", _read_policy, ",".join)
ENGINE_TYPES: Final = Kind(
    "`/prefix=type`, …",
    _read_engine_types,
    lambda value: ",".join(f"{prefix}={engine_type}" for prefix, engine_type in value),
)
VIRTUAL: Final = Kind("name, or `host=name`, `/path=name`, …", _read_virtual)

"""Addresses of sessions and their elements, as URLs carry them.

    /<group>.<key>                                  a session
    /<manager>/<group>.<key>/<element>[/<path>…]    an element, or what is inside it

Group and key are URL-safe base64 without padding; the key is what the session is stored under, a
hash, so an address alone opens nothing. Names and keys of maps are percent-encoded; the place of a
list's item is its index, as a decimal number. Whether `7` is an index or the text "7" is decided by
what is there, a list or a map, as in a JSON Pointer (RFC 6901): decoders on the way may write the
same text otherwise, so an address cannot tell the two apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import quote, unquote

from sessionha.identity import (
    GROUP_BYTES,
    GroupID,
    SessionKey,
    decode64,
    encode64,
    is_name,
)

KEY_BYTES: Final = 16
"""Bytes of a session's key."""

_SEGMENT: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*")  # RFC 3986, 3.3


@dataclass(frozen=True, slots=True, repr=False)
class DataAddress:
    """Where data is: a session, one of its elements, or something inside an element."""

    group: GroupID
    key: SessionKey
    manager: str = ""
    """The element's data manager; empty: the address is the session's."""
    element: str = ""
    path: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> DataAddress:
        """The address that `str` wrote, or an equivalent spelling of it.

        Raises:
            ValueError: what is wrong with it; the words name none of its content.
        """
        first, *segments = text.split("/")
        if first or not segments:
            raise ValueError("an address begins with `/`")
        if len(segments) == 1:
            return cls(*_session(segments[0]))
        if len(segments) == 2:
            raise ValueError("an address of an element is /<manager>/<session>/<element>")
        manager, session, *names = segments
        if not is_name(manager):
            raise ValueError("the first part of an element's address is its data manager's name")
        element, *path = map(_unquoted, names)
        return cls(*_session(session), manager, element, tuple(path))

    @property
    def session(self) -> DataAddress:
        """The address of the session that this is in."""
        return DataAddress(self.group, self.key)

    def at(self, manager: str, element: str, *path: str | int) -> DataAddress:
        """The address of an element of the session, or of what is inside it."""
        keys = tuple(str(key) for key in path)
        return replace(self, manager=manager, element=element, path=keys)

    def __str__(self) -> str:
        """Raises ValueError for names that are no Unicode text."""
        session = f"{encode64(self.group)}.{encode64(self.key)}"
        if not self.manager:
            return f"/{session}"
        names = map(_quoted, (self.element, *self.path))
        return "/".join(("", self.manager, session, *names))

    def __repr__(self) -> str:
        return "<DataAddress>"  # it tells which session something was done to


def _session(segment: str) -> tuple[GroupID, SessionKey]:
    group_text, _, key_text = segment.partition(".")
    try:
        group, key = decode64(group_text), decode64(key_text)
    except ValueError:
        group = key = b""
    if len(group) != GROUP_BYTES or len(key) != KEY_BYTES:
        raise ValueError("a session's address is <group>.<hash of the secret part>, in base64")
    return group, key


def _quoted(name: str) -> str:
    quoted = quote(name, safe="")
    return quoted.replace(".", "%2E") if name in (".", "..") else quoted  # else it means a folder


def _unquoted(segment: str) -> str:
    if _SEGMENT.fullmatch(segment) is None:
        raise ValueError("names in an address are percent-encoded")
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("names in an address are UTF-8, percent-encoded") from None

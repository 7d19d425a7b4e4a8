"""What a session does with the other sessions of its subject: the one whose sessions they are."""

from __future__ import annotations

import secrets
from typing import Final

from sessionha.identity import decode64
from sessionha.peer.messages import Owner
from sessionha.state.base import LoggedOut, State

SUBJECT_BYTES: Final = 128
"""Longest subject: it lies in every session of it, on every node that has a copy."""

HANDLE_BYTES: Final = 12
"""Bytes of a session's handle, random: two of one subject never have the same."""

NAME_BYTES: Final = 8
"""Bytes of a log-out's name, random."""

NOBODY: Final = Owner("", "", b"")
"""What a change says of a session that is nobody's any more."""


def checked_subject(subject: str) -> str:
    """The subject as it is.

    Raises:
        TypeError, ValueError: it cannot be one; the words do not tell it.
    """
    if not isinstance(subject, str):
        raise TypeError(f"a subject is text or None, not {type(subject).__qualname__}")
    try:
        size = len(subject.encode())
    except UnicodeEncodeError:
        raise ValueError("a subject is Unicode text") from None
    if not 0 < size <= SUBJECT_BYTES:
        raise ValueError(f"a subject has 1 to {SUBJECT_BYTES} bytes; None is nobody")
    return subject


class Register:
    """Knows the state manager and the virtual server of one request's session."""

    def __init__(self, state: State, virtual_server: str) -> None:
        self.state = state
        self._virtual_server = virtual_server

    def owner(self, subject: str) -> Owner:
        """What a change says of a session that becomes this subject's."""
        return Owner(subject, self._virtual_server, secrets.token_bytes(HANDLE_BYTES))


async def log_out(state: State, subject: str, *, kept: tuple[bytes, ...] = ()) -> LoggedOut:
    """End every session of the subject but those with the handles `kept`. Raises as `State.revoke`
    does."""
    return await state.revoke(subject, secrets.token_bytes(NAME_BYTES), kept=kept)


async def log_out_one(state: State, subject: str, name: str) -> LoggedOut:
    """End the subject's session with this ID, as lists show it; none, if that is no ID."""
    try:
        handle = decode64(name)
    except ValueError:
        return LoggedOut(0)
    if len(handle) != HANDLE_BYTES:
        return LoggedOut(0)
    return await state.revoke(subject, secrets.token_bytes(NAME_BYTES), only=(handle,))

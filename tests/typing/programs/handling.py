"""Errors as a user handles them."""

from typing import assert_type

from sessionha import (
    CommitUnconfirmed,
    InvalidSettings,
    SessionError,
    SessionHAError,
    SessionTooLarge,
    SessionUnavailable,
    __version__,
)


def retry_after(error: SessionError) -> int | None:
    if isinstance(error, CommitUnconfirmed):
        assert_type(error.missing, tuple[str, ...])
        assert_type(error.copies, int)
    if isinstance(error, SessionTooLarge):
        assert_type(error.limit, int)
    return error.retry_after if isinstance(error, SessionUnavailable) else None


def first_problem(error: SessionHAError) -> str:
    return error.problems[0] if isinstance(error, InvalidSettings) else str(error)


assert_type(__version__, str)

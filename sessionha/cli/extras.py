"""Names the extra to install when a command's libraries are absent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class MissingExtra(Exception):
    """A command cannot run because an optional library is not installed."""

    def __init__(self, extra: str, what: str, module: str) -> None:
        self.extra = extra
        super().__init__(
            f"{what} needs the extra `{extra}` ({module} is not installed):"
            f" pip install 'sessionha[{extra}]'"
        )


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Around imports that only `extra` brings; our own modules must always be importable.

    Raises:
        MissingExtra: a foreign library is absent.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module in ("", "sessionha"):
            raise
        raise MissingExtra(extra, what, module) from error

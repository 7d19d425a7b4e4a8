"""How files were made, in a line at their head: whoever makes them anew without a word keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from sessionha.errors import InvalidSettings

HEAD: Final = "# Options: "

RESPONSE_TIMEOUT: Final = 30.0
"""Seconds, unless told otherwise."""


class Kept(msgspec.Struct, frozen=True):
    """What was decided; the members of `Options` with these names."""

    verify: bool
    response_timeout: float = RESPONSE_TIMEOUT
    loopback: str = ""

    @property
    def line(self) -> str:
        """A comment."""
        return HEAD + msgspec.json.encode(self).decode()


def kept(path: Path) -> Kept | None:
    """What a file says of how it was made; None: there is no such file, or it says nothing.

    Raises:
        InvalidSettings: it cannot be read, or says what cannot be understood: to go on would be to
            undo what somebody decided.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        told = next((line for line in lines if line.startswith(HEAD)), None)
        return None if told is None else msgspec.json.decode(told.removeprefix(HEAD), type=Kept)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidSettings(
            [
                f"{path} does not tell how it was made ({reason}): let it be readable, or remove it"
                " and give the options again (--verify, --response-timeout, --loopback)"
            ]
        ) from error

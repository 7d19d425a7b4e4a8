"""The cluster secret: read, judged and expanded into keys, one for each label (RFC 5869)."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import Final

PEER_LABEL: Final = b"sessionha peer authentication"
ROUTE_LABEL: Final = b"sessionha route cookie"
ADMIN_LABEL: Final = b"sessionha admin token"
APPLICATION_LABEL: Final = b"sessionha application key"
LOG_LABEL: Final = b"sessionha log hash"
CANARY_LABEL: Final = b"sessionha canary"

_HASH: Final = "sha256"
_HASH_BYTES: Final = 32
_SALT: Final = bytes(_HASH_BYTES)  # RFC 5869, 2.2: no salt is a block of zeros
_MOST_BYTES: Final = 255 * _HASH_BYTES  # RFC 5869, 2.3: the block counter is one byte

SECRET_BYTES: Final = 32
"""As many bytes as HMAC-SHA256 has: a shorter secret would be the weakest part."""

_DISTINCT: Final = 10
"""A random secret of 32 characters has more different ones; "aaaa…" and "1234…" do not."""

_PLACEHOLDERS: Final = (
    "change-me", "change_me", "changeme", "example", "insecure", "password", "placeholder",
    "replace-me", "replaceme", "secret",
)  # fmt: skip


def hkdf(secret: bytes, label: bytes, length: int = 32) -> bytes:
    """`length` bytes (1 to 8,160) that only who knows `secret` can derive for `label`.

    Keys of different labels tell nothing about each other or about the secret.

    Raises:
        ValueError: `length` is out of range.
    """
    if not 1 <= length <= _MOST_BYTES:
        raise ValueError(f"HKDF-SHA256 gives 1 to {_MOST_BYTES} bytes, not {length}")
    extracted = hmac.digest(_SALT, secret, _HASH)
    return expand(extracted, label, length)


def expand(key: bytes, info: bytes, length: int) -> bytes:
    """The second half of HKDF: stretches a uniformly random `key` for the use `info`."""
    blocks, block = b"", b""
    for counter in range(1, -(-length // _HASH_BYTES) + 1):
        block = hmac.digest(key, block + info + bytes([counter]), _HASH)
        blocks += block
    return blocks[:length]


def new_secret() -> str:
    """A fresh cluster secret as text: 256 random bits."""
    return token_hex(SECRET_BYTES)


def read_secrets(path: Path) -> tuple[bytes, ...]:
    """The secrets in a file, one a line.

    Raises:
        ValueError: it cannot be read or is empty; the words complete "`secret_file` = …".
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror}): correct the path") from error
    except UnicodeDecodeError as error:
        raise ValueError("is not text: write one secret a line into it") from error
    secrets = tuple(line.strip().encode() for line in lines if line.strip())
    if not secrets:
        raise ValueError("is empty: put what `sessionha secret` prints into it")
    return secrets


def weaknesses(secrets: tuple[bytes, ...], where: str) -> Iterator[str]:
    """What is wrong with each secret, without telling it."""
    for position, secret in enumerate(secrets, 1):
        name = f"secret {position}{' ' + where if where else ''}"
        remedy = "use what `sessionha secret` prints"
        lowered = secret.lower().decode(errors="replace")
        if any(word in lowered for word in _PLACEHOLDERS):
            yield f"`secret`: {name} is a placeholder: {remedy}"
        elif len(secret) < SECRET_BYTES:
            yield (
                f"`secret`: {name} has {len(secret)} bytes, at least {SECRET_BYTES} are needed:"
                f" {remedy}"
            )
        elif len(set(secret)) < _DISTINCT:
            yield f"`secret`: {name} is not random: {remedy}"

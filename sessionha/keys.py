"""Derives the keys of one cluster secret: HKDF-SHA256 (RFC 5869), one label for each use."""

from __future__ import annotations

import hmac
from typing import Final

PEER_LABEL: Final = b"sessionha peer authentication"
ROUTE_LABEL: Final = b"sessionha route cookie"
ADMIN_LABEL: Final = b"sessionha admin token"
LOG_LABEL: Final = b"sessionha log hash"

_HASH: Final = "sha256"
_HASH_BYTES: Final = 32
_SALT: Final = bytes(_HASH_BYTES)  # RFC 5869, 2.2: no salt is a block of zeros
_MOST_BYTES: Final = 255 * _HASH_BYTES  # RFC 5869, 2.3: the block counter is one byte


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

"""The vote file: an elector's vote on a disk, written whole or not at all."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Final

import msgspec

from sessionha.errors import StoreError
from sessionha.topology.votes import Vote

NAME: Final = "vote"
FRESH: Final = "vote.new"
HEADER: Final = b"sessionha vote 1\n"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Vote).decode


class DiskVotes:
    """Implements `sessionha.topology.votes.VoteFile`.

    Not locked: whoever writes holds the write transaction of the node's store.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self) -> Vote | None:
        """See `VoteFile.load`.

        Raises:
            StoreError: the file is there and cannot be read. A vote that is damaged must not be
                taken for none: what it said may decide.
        """
        path = self._directory / NAME
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; correct it or `state_dir`") from error
        body = data[len(HEADER) + 4 :]
        check = zlib.crc32(body).to_bytes(4)
        if data[: len(HEADER) + 4] != HEADER + check:
            raise StoreError(
                f"{path} is damaged; if it cannot be restored, move it away: this node then counts"
                " as one that has lost its votes (setting `state_dir`)"
            )
        return _decode(body)

    def save(self, vote: Vote) -> None:
        """See `VoteFile.save`."""
        body = _encode(vote)
        fresh = self._directory / FRESH
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                _write(descriptor, HEADER + zlib.crc32(body).to_bytes(4) + body)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(fresh, self._directory / NAME)
            self._sync_directory()
        except OSError as error:
            raise StoreError(
                f"{fresh}: {error.strerror}; a node that cannot write its vote cannot vote: give"
                " `state_dir` room and permission"
            ) from error

    def _sync_directory(self) -> None:
        """A name in a directory is durable only when the directory is."""
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]

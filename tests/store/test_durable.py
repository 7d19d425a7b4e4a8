"""Where votes lie: a directory that survives a reboot, or an error that names the setting."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from sessionha.errors import StoreError
from sessionha.store import durable


def mounts(tmp_path: Path, memory: Path) -> Path:
    """A table of mounts in which one directory is a tmpfs."""
    table = tmp_path / "mounts"
    table.write_text(f"1 0 0:1 / / rw - ext4 d rw\n2 1 0:2 / {memory} rw - tmpfs t rw\n")
    return table


def test_the_first_place_on_a_disk_is_taken(tmp_path: Path) -> None:
    memory, disk = tmp_path / "memory", tmp_path / "disk" / "deep"
    memory.mkdir()
    found = durable(None, name="c-n1", places=(memory, disk), mounts=mounts(tmp_path, memory))
    assert found == disk / "c-n1"
    assert found.stat().st_mode & 0o777 == 0o700


def test_memory_is_never_taken_silently(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = mounts(tmp_path, tmp_path / "memory")
    with caplog.at_level(logging.WARNING):
        found = durable(tmp_path / "memory", name="c-n1", mounts=table)
    assert found.is_dir()
    assert "is memory: after a reboot this node has lost its votes" in caplog.text


def test_no_place_names_the_setting(tmp_path: Path) -> None:
    table = mounts(tmp_path, tmp_path)
    with pytest.raises(StoreError, match="SESSIONHA_STATE_DIR"):
        durable(None, name="c-n1", places=(tmp_path / "a",), mounts=table)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="SESSIONHA_STATE_DIR"):
        durable(tmp_path / "file", name="c-n1", mounts=table)

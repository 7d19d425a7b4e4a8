"""Where a store lives, and how much it may hold there."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sessionha.errors import StoreError
from sessionha.store import LMDBStore, choose
from sessionha.store.admission import memory_limit
from sessionha.store.place import file_system
from tests.store.conftest import MIB

OWN = f"sessionha-{os.geteuid()}"


def test_shared_memory_is_the_place_when_there_is_room(tmp_path: Path) -> None:
    place = choose(None, name="shop", size=MIB, shm=tmp_path, fallbacks=[])
    assert place == tmp_path / OWN / "shop"
    assert place.parent.stat().st_mode & 0o777 == 0o700


def test_container_sized_shared_memory_falls_back_with_one_warning_that_names_the_remedy(
    tmp_path: Path, tmpfs: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    shm = tmpfs("64m")
    with caplog.at_level(logging.WARNING, "sessionha.store"):
        place = choose(None, name="shop", size=256 * MIB, shm=shm, fallbacks=[tmp_path])
    assert place == tmp_path / OWN / "shop"
    assert len(caplog.records) == 1
    assert "--shm-size" in caplog.text
    assert "emptyDir.medium" in caplog.text


def test_a_store_that_took_the_room_keeps_its_place(tmpfs: Callable[[str], Path]) -> None:
    shm = tmpfs("48m")
    place = choose(None, name="shop", size=32 * MIB, shm=shm, fallbacks=[])
    LMDBStore(place, size=32 * MIB, writemap=True).open().close()
    assert os.statvfs(shm).f_bavail * 4096 < 32 * MIB
    assert choose(None, name="shop", size=32 * MIB, shm=shm, fallbacks=[]) == place


def test_a_later_engine_follows_one_that_lives_in_the_fallback(
    tmp_path: Path, engine_in: Callable[[Path], None]
) -> None:
    shm, other = tmp_path / "shm", tmp_path / "other"
    other.mkdir()
    place = choose(None, name="shop", size=MIB, shm=shm, fallbacks=[other])
    engine_in(place)
    shm.mkdir()
    assert choose(None, name="shop", size=MIB, shm=shm, fallbacks=[other]) == place


def test_no_place_at_all_is_an_error_with_the_setting(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="SESSIONHA_STORE"):
        choose(None, name="shop", size=MIB, shm=tmp_path / "no", fallbacks=[tmp_path / "none"])


def test_a_setting_is_taken_as_it_is(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "new" / "deep"):
        assert choose(str(path), name="shop", size=MIB) == path


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a directory away needs root")
def test_a_volume_of_another_user_gets_a_subdirectory(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)
    assert choose(str(tmp_path), name="shop", size=MIB) == tmp_path / "shop"
    os.chown(tmp_path, 0, 0)


def test_a_link_in_the_place_of_our_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / OWN).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="not a directory of user"):
        choose(None, name="shop", size=MIB, shm=tmp_path, fallbacks=[])


MOUNTS = """\
20 1 254:0 / / rw - ext4 /dev/vda rw
21 20 0:40 / /srv rw - nfs4 server:/srv rw
22 21 0:41 / /srv/local rw - tmpfs tmpfs rw
23 20 0:42 / /with\\040space rw - cifs //host/share rw
24 20 0:43 / /home/me/remote rw - fuse.sshfs me@host: rw
25 20 0:44 / /covered rw - nfs server:/x rw
26 20 0:45 / /covered rw - xfs /dev/vdb rw
27 20 0:46 / /mnt/c rw - 9p drvfs rw
28 20 0:47 / /gluster rw - fuse.glusterfs host:/vol rw
"""


@pytest.mark.parametrize(
    "path", ["/srv/store", "/with space/x", "/home/me/remote/x", "/mnt/c/x", "/gluster/x"]
)
def test_network_file_systems_are_refused(tmp_path: Path, path: str) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    with pytest.raises(StoreError, match="network file system"):
        choose(path, name="shop", size=MIB, mounts=mounts)


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/srv/local/x", "tmpfs"), ("/covered/x", "xfs"), ("/srvx", "ext4"), ("/srv", "nfs4")],
)
def test_the_innermost_and_latest_mount_counts(tmp_path: Path, path: str, kind: str) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert file_system(Path(path), mounts) == kind


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"memory.max": "1000"}, 1000),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "500"}, 500),
        ("0::/a/b\n", {"memory.max": "700"}, 700),
        ("0::/a\n", {"a/memory.max": "max"}, None),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "900"}, 900),
        ("4:memory:/a\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("4:cpu,memory:/a\n0::/\n", {"memory/memory.limit_in_bytes": "800"}, 800),
        ("0::/../other\n", {"memory.max": "600"}, 600),
        ("nonsense\n", {}, None),
    ],
)
def test_the_lowest_memory_limit_of_the_control_groups_counts(
    tmp_path: Path, membership: str, files: dict[str, str], expected: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "cgroup").write_text(membership)
    assert memory_limit(tmp_path / "cgroup", tmp_path) == expected

"""A balancer follows the document: new files, judged, put back when refused, and reloaded."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from sessionha.balancers import following
from sessionha.balancers.base import File, Files, Keys, Options
from sessionha.balancers.document import Document, document_of
from sessionha.balancers.following import Following
from sessionha.balancers.installing import differing, install, run, unseen, write
from tests.balancers.vectors import settings, view_of

NODES = {"n1": "up", "n2": "up"}
URLS = {"n1": "http://127.0.0.1:1", "n2": "http://127.0.0.1:2"}


class Toy:
    """A balancer whose check is `grep -q <good>` on its file."""

    place = Path("/nowhere")
    main = "toy.conf"
    asks = False
    verifies = False
    reload: tuple[str, ...] = ()

    def __init__(self, place: Path, good: str = "view") -> None:
        self.check: tuple[str, ...] = ("grep", "-q", good, str(place / "toy.conf"))
        self.adopts = False
        self.adopted = 0

    def files(self, document: Document, keys: Keys, options: Options) -> Files:
        text = "".join(f"{server.name} {server.state}\n" for server in document.servers)
        return {
            "toy.conf": File(f"view {document.view}\n{text}"),
            "keys": File(" ".join(keys), private=True),
        }

    async def adopt(self, document: Document, keys: Keys, options: Options) -> bool:
        self.adopted += 1
        return self.adopts


def document(view: int, **nodes: str) -> Document:
    return document_of(view_of(nodes or NODES, URLS, number=view), settings())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (files do not tell)
            await asyncio.sleep(0.01)


@asynccontextmanager
async def followed(toy: Toy, place: Path, keys: Keys | None = None) -> AsyncIterator[Following]:
    options = Options(place=place, verify=True)
    task_of = Following(toy, lambda: options, lambda: keys or {}, reload=("true",))
    task = asyncio.create_task(task_of.run())
    try:
        yield task_of
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture(autouse=True)
def _haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PAUSE", 0.0)
    monkeypatch.setattr(following, "AGAIN", 0.01)


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def text(place: Path) -> str:
    path = place / "toy.conf"
    return path.read_text() if path.exists() else ""


async def test_each_document_is_written_whole_and_keys_are_for_the_owner(tmp_path: Path) -> None:
    async with followed(Toy(tmp_path), tmp_path, {"k1": b"x"}) as follows:
        follows.tell(document(1))
        await until(lambda: "view 1" in text(tmp_path))
        follows.tell(document(2, n1="up", n2="drain"))
        await until(lambda: "n2 drain" in text(tmp_path))
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["keys", "toy.conf"]


async def test_what_the_balancer_refuses_is_put_back_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sessionha.balancers")
    async with followed(Toy(tmp_path, good="n2 up"), tmp_path) as follows:
        follows.tell(document(1))
        await until(lambda: "the balancer is at view 1" in caplog.text)
        good = text(tmp_path)
        follows.tell(document(2, n1="up", n2="drain"))
        await until(lambda: "ends with 1" in caplog.text)
        assert text(tmp_path) == good
        follows.tell(document(3))
        await until(lambda: "the balancer is at view 3" in caplog.text)
    assert caplog.text.count("stays as it is") == 1


async def test_a_first_configuration_that_is_refused_leaves_nothing(tmp_path: Path) -> None:
    files = {"toy.conf": File("bad"), "keys": File("k", private=True)}
    found = await install(tmp_path, files, ["false"])
    assert not found.done
    assert names(tmp_path) == []


async def test_the_run_time_api_is_asked_first_and_a_reload_is_for_what_it_cannot(
    tmp_path: Path,
) -> None:
    toy = Toy(tmp_path)
    log = tmp_path / "log"
    options = Options(place=tmp_path, verify=False)
    following_it = Following(
        toy, lambda: options, dict, reload=("sh", "-c", f"echo reloaded >> {log}")
    )
    toy.adopts = True
    assert await following_it._bring(document(1))
    assert (toy.adopted, log.exists()) == (1, False)
    toy.adopts = False
    assert await following_it._bring(document(2))
    assert log.read_text() == "reloaded\n"
    assert await following_it._bring(document(2)), "nothing is new"
    assert log.read_text() == "reloaded\n"


async def test_a_balancer_that_does_not_run_yet_is_reloaded_when_it_does(tmp_path: Path) -> None:
    toy, running = Toy(tmp_path), tmp_path / "running"
    options = Options(place=tmp_path, verify=False)
    follows = Following(toy, lambda: options, dict, reload=("test", "-e", str(running)))
    assert not await follows._bring(document(1))
    running.touch()
    assert await follows._bring(document(1)), "although the files are the same"


async def test_one_that_was_killed_before_the_reload_does_it_when_it_is_back(
    tmp_path: Path,
) -> None:
    """What the files say then is new to the balancer, and to nobody else."""
    place, log = tmp_path / "place", tmp_path / "log"
    options = Options(place=place, verify=False)
    killed = Following(Toy(place), lambda: options, dict, reload=("false",))
    assert not await killed._bring(document(1))
    after = Following(
        Toy(place), lambda: options, dict, reload=("sh", "-c", f"echo reloaded >> {log}")
    )
    assert await after._bring(document(1))
    assert await after._bring(document(1))
    assert log.read_text() == "reloaded\n", "once"


async def test_what_was_not_judged_does_not_stay(tmp_path: Path) -> None:
    """Neither when it is stopped meanwhile, nor when only some of the files can be written."""
    place = tmp_path / "place"
    good = {"one": File("good"), "two": File("good")}
    assert (await install(place, good, ["true"])).done
    new = {name: File("new") for name in ("new", *good)}
    begun = tmp_path / "begun"
    check = ["sh", "-c", f"touch {begun}; exec sleep 60"]
    judging = asyncio.create_task(install(place, new, check))
    await until(begun.exists)
    judging.cancel()
    with suppress(asyncio.CancelledError):
        await judging
    assert (names(place), (place / "one").read_text()) == (["one", "two"], "good")
    (place / "dir").mkdir()
    with pytest.raises(OSError, match="directory"):
        await install(place, {**new, "dir": File("none")}, ["true"])
    assert (names(place), (place / "one").read_text()) == (["dir", "one", "two"], "good")


async def test_what_a_balancer_looks_at_by_itself_needs_no_reload(tmp_path: Path) -> None:
    class Looking(Toy):
        def files(self, document: Document, keys: Keys, options: Options) -> Files:
            away = [server.name for server in document.draining]
            marks = {name: File("" if name in away else None, live=True) for name in ("n1", "n2")}
            return {"toy.conf": File("view"), **marks}

    options, log = Options(place=tmp_path, verify=False), tmp_path / "log"
    follows = Following(
        Looking(tmp_path), lambda: options, dict, reload=("sh", "-c", f"echo reloaded >> {log}")
    )
    assert await follows._bring(document(1))
    assert await follows._bring(document(2, n1="up", n2="drain"))
    assert names(tmp_path) == ["log", "n2", "toy.conf"]
    assert await follows._bring(document(3))
    assert names(tmp_path) == ["log", "toy.conf"]
    assert log.read_text() == "reloaded\n", "for the first time only"


def test_directories_may_be_entered_whatever_the_umask_is(tmp_path: Path) -> None:
    place = tmp_path / "new" / "place"
    before = os.umask(0o077)
    try:
        write(place, {"keys": File("k", private=True)})
    finally:
        os.umask(before)
    assert [each.stat().st_mode & 0o777 for each in (place, place.parent, place / "keys")] == [
        0o755,
        0o755,
        0o600,
    ]


def test_a_directory_that_hides_marks_from_workers_is_named_with_the_remedy(tmp_path: Path) -> None:
    for each in (tmp_path, *tmp_path.parents[:3]):
        each.chmod(0o755)
    place, marks = tmp_path / "closed" / "place", {"n1": File("", live=True)}
    write(place, marks)
    assert unseen(place, marks) == ""
    place.parent.chmod(0o750)
    assert f"`chmod o+x {place.parent}`" in unseen(place, marks)
    assert unseen(place, {"toy.conf": File("")}) == "", "it is read by who starts the balancer"
    assert unseen(place, {**marks, "keys": File("", private=True, live=True)}) == ""


async def test_a_view_without_any_application_changes_nothing(tmp_path: Path) -> None:
    follows = Following(
        Toy(tmp_path), lambda: Options(place=tmp_path, verify=False), dict, reload=()
    )
    nobody = document_of(view_of({"n1": "up"}, {"n1": ""}), settings())
    assert not await follows._bring(nobody)
    assert names(tmp_path) == []


def test_files_that_are_the_same_are_not_written_again(tmp_path: Path) -> None:
    files = {"toy.conf": File("one"), "keys": File("k", private=True)}
    write(tmp_path, files)
    before = (tmp_path / "toy.conf").stat().st_ino
    assert not differing(tmp_path, files)
    write(tmp_path, files)
    assert (tmp_path / "toy.conf").stat().st_ino == before
    (tmp_path / "keys").chmod(0o644)
    assert list(differing(tmp_path, files)) == ["keys"], "a key that others can read"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["false"], "false ends with 1"),
        (["/no/such/command"], "/no/such/command: No such file"),
    ],
)
async def test_a_command_that_fails_is_told_with_what_it_wrote(
    command: Sequence[str], words: str
) -> None:
    found = await run(command)
    assert not found.done
    assert found.words.startswith(words)

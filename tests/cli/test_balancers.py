"""`sessionha export`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sessionha.balancers.base import File
from sessionha.balancers.document import document_of, keys_of
from sessionha.balancers.installing import write
from sessionha.balancers.kept import Kept
from sessionha.balancers.kinds import KINDS
from sessionha.cli import asking, main
from sessionha.cli.balancers import Wishes
from sessionha.identity import ViewID
from sessionha.keys import new_secret
from sessionha.peer.base import Sender
from sessionha.peer.messages import Done, Installed, Message, Watch
from sessionha.peer.streams import Streams
from sessionha.settings import Settings
from sessionha.view import Member, View
from tests.balancers.vectors import view_of
from tests.live.cluster import until

Output = pytest.CaptureFixture[str]

DESCRIPTION = """
[[node]]
id = "n1"
peer = "10.0.0.1:7946"
url = "http://10.0.0.1:8000"
[[node]]
id = "n2"
peer = "10.0.0.2:7946"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "cluster.toml"
    file.write_text(DESCRIPTION + 'url = "http://10.0.0.2:8000"\n', encoding="utf-8")
    return file


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSIONHA_SECRET", new_secret())


def test_the_document_of_a_description_is_printed(file: Path, capsys: Output) -> None:
    assert main(["export", "json", "--cluster", str(file)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [server["url"] for server in found["servers"]] == [
        "http://10.0.0.1:8000",
        "http://10.0.0.2:8000",
    ]


def test_a_configuration_is_printed_without_keys(
    file: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the nodes in the file that is named, whatever the environment says."""
    monkeypatch.setenv("SESSIONHA_NODES", "n9=http://10.0.0.9:7946")
    assert main(["export", "nginx", "--cluster", str(file), "--verify"]) == 0
    out = capsys.readouterr().out
    keys = keys_of(Settings.observe())
    assert keys
    assert not any(key.hex() in out for key in keys.values())
    assert "server 10.0.0.2:8000 " in out


def test_files_are_written_and_named(file: Path, tmp_path: Path, capsys: Output) -> None:
    assert main(["export", "nginx", "--cluster", str(file), "--to", str(tmp_path / "to")]) == 0
    named = capsys.readouterr().out.split()
    assert sorted(named) == sorted(str(path) for path in (tmp_path / "to").iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_how_files_were_made_is_kept_until_somebody_says_otherwise(
    kind: str, file: Path, tmp_path: Path
) -> None:
    """Also by `follow`, and what is exported while it runs."""
    place, balancer = tmp_path / "to", KINDS[kind]
    other = "--no-verify" if balancer.verifies else "--verify"
    export = ["export", kind, "--cluster", str(file), "--to", str(place)]
    assert main([*export, other, "--response-timeout", "7s", "--loopback", "127.0.0.1:1"]) == 0
    names = sorted(path.name for path in place.iterdir())

    def options(**said: Any) -> tuple[bool, float, str]:
        found = Wishes(to=place, **said).options(balancer)
        return found.verify, found.response_timeout, found.loopback

    assert options() == (not balancer.verifies, 7.0, "127.0.0.1:1")
    assert options(verify=balancer.verifies)[0] is balancer.verifies
    assert options(response_timeout=8.0, loopback="")[1:] == (8.0, "")
    assert main(export) == 0
    assert options() == (not balancer.verifies, 7.0, "127.0.0.1:1")
    assert sorted(path.name for path in place.iterdir()) == names
    assert main([*export, "--no-verify"]) == 0
    assert not any("keys" in path.name for path in place.iterdir()), "nobody needs them any more"


def test_a_file_that_hides_how_it_was_made_is_not_replaced(
    file: Path, tmp_path: Path, capsys: Output
) -> None:
    (tmp_path / "http.conf").write_text('# Options: {"verify":"perhaps"}\n', encoding="utf-8")
    assert main(["export", "nginx", "--cluster", str(file), "--to", str(tmp_path)]) == 2
    assert "http.conf does not tell how it was made" in capsys.readouterr().err


def test_who_asks_servers_and_has_no_path_for_it_is_told_so(
    file: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, told in (("haproxy", True), ("nginx", False)):
        assert main(["export", kind, "--cluster", str(file)]) == 0
        assert ("SESSIONHA_HEALTH_PATH=/" in capsys.readouterr().err) is told
    monkeypatch.setenv("SESSIONHA_HEALTH_PATH", "/")
    assert main(["export", "haproxy", "--cluster", str(file)]) == 0
    assert capsys.readouterr().err == ""


def test_a_running_node_is_asked(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    view = view_of({"n1": "drain"}, {"n1": "http://10.0.0.7:80"}, number=5)
    told = json.loads(document_of(view, Settings.observe()).text)
    asked: list[str] = []

    def ask(url: str, path: str, bearer: str, has: str) -> object:
        asked.append(url + path)
        return told

    monkeypatch.setattr(asking, "ask", ask)
    assert main(["export", "json", "--from", "10.0.0.1:7947"]) == 0
    assert json.loads(capsys.readouterr().out) == told
    assert asked == ["http://10.0.0.1:7947/v1/balancers"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["export", "squid"], "'squid' is no balancer known here: nginx"),
        (["follow", "nginx"], "`nodes` is empty"),
        (["follow", "squid"], "is no balancer"),
    ],
)
def test_what_cannot_be_done_says_why_and_exits_2(
    words: list[str], says: str, file: Path, capsys: Output
) -> None:
    where = ["--cluster", str(file)] if words[0] == "export" else []
    assert main([*words, *where]) == 2
    assert says in capsys.readouterr().err


def test_a_description_without_addresses_of_applications_says_what_to_add(
    tmp_path: Path, capsys: Output
) -> None:
    (tmp_path / "cluster.toml").write_text(DESCRIPTION, encoding="utf-8")
    assert main(["export", "nginx", "--cluster", str(tmp_path / "cluster.toml")]) == 2
    assert "n2: where the application is, is not written down" in capsys.readouterr().err


class Node:
    """Tells its view to who proves the secret; serves nobody."""

    def __init__(self) -> None:
        self.view = View()
        self._streams: Streams | None = None
        self._port = 0

    async def open(self, secret: str) -> str:
        """Accept streams by this secret alone; the address stays."""

        def handle(sender: Sender, message: Message) -> Message:
            assert isinstance(message, Watch)
            known = tuple(message.view) == tuple(self.view.id)
            return Done() if known else Installed(self.view)

        self._streams = Streams(
            "n1", "default", handle, secrets=lambda: (secret.encode(),), incarnation=lambda: "inc"
        )
        host, self._port = await self._streams.start_listening("127.0.0.1", self._port)
        return f"{host}:{self._port}"

    async def close(self) -> None:
        assert self._streams is not None, "it was opened"
        await self._streams.close()

    def shows(self, number: int, peer: str) -> None:
        """From now on: the view of this number, with as many servers."""
        first = Member("n1", "inc", ViewID(1, ""), peer, "http://10.0.0.1:80")
        others = [
            Member(f"n{n}", "inc", ViewID(1, ""), "127.0.0.1:1", f"http://10.0.0.{n}:80")
            for n in range(2, number + 1)
        ]
        self.view = View(ViewID(number, ""), (first, *others))


@pytest.mark.processes
async def test_follow_takes_new_secrets_over_at_sighup_also_for_its_own_streams(
    tmp_path: Path,
) -> None:
    """A rotation to its end: the nodes know the old secret no more. That signatures are verified
    is known from what is in place."""
    file, place = tmp_path / "secret", tmp_path / "nginx"
    old, new = new_secret(), new_secret()
    file.write_text(old, encoding="utf-8")
    file.chmod(0o600)
    node = Node()
    peer = await node.open(old)
    node.shows(1, peer)
    environment = {name: text for name, text in os.environ.items() if "SESSIONHA" not in name}
    environment |= {"SESSIONHA_NODES": f"n1=http://{peer}", "SESSIONHA_SECRET_FILE": str(file)}
    write(place, {"http.conf": File(Kept(verify=True).line)})
    words = ["follow", "nginx", "--to", str(place), "--check", "true", "--reload", ""]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sessionha", *words, env=environment, stderr=subprocess.DEVNULL
    )

    def written(number: int, secret: str) -> bool:
        keys = keys_of(Settings.observe({}, secret=secret))
        files = [place / "http.conf", place / "sessionha-keys.js"]
        text = "".join(file.read_text(encoding="utf-8") for file in files if file.exists())
        return f"10.0.0.{number}:80" in text and all(key.hex() in text for key in keys.values())

    async def follows(number: int, secret: str) -> None:
        async def there() -> bool:
            return written(number, secret)

        await until(f"the configuration is of view {number}", there)

    try:
        await follows(1, old)
        file.write_text("short", encoding="utf-8")
        process.send_signal(signal.SIGHUP)
        node.shows(2, peer)
        await follows(2, old)
        file.write_text(new, encoding="utf-8")
        process.send_signal(signal.SIGHUP)
        await follows(2, new)
        await node.close()
        await node.open(new)
        node.shows(3, peer)
        await follows(3, new)
    finally:
        process.kill()
        await process.wait()
        await node.close()

"""`sessionha export`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sessionha.balancers.document import document_of, keys_of
from sessionha.cli import asking, main
from sessionha.keys import new_secret
from sessionha.settings import Settings
from tests.balancers.vectors import view_of

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


def test_a_configuration_is_printed_without_keys(file: Path, capsys: Output) -> None:
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

"""The command `doctor`: what it prints, tries from outside, and its exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sessionha.admin.tokens import tokens
from sessionha.cli import main
from tests.cli.test_status import SECRET, SETTINGS, Node, serving

Output = pytest.CaptureFixture[str]

ANSWER: dict[str, Any] = {
    "node": "n1",
    "url": "",
    "health_path": "",
    "engines": [0, 1],
    "checks": [{"check": "state", "outcome": "ok", "found": "it is ready", "remedy": ""}],
}


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setenv("SESSIONHA_SECRET", SECRET)
    monkeypatch.setenv("COLUMNS", "120")
    with serving() as made:
        made.body = json.dumps(ANSWER).encode()
        yield made


def checks(output: str) -> dict[str, tuple[str, str]]:
    rows = json.loads(output)["checks"]
    return {row["check"]: (row["outcome"], row["found"]) for row in rows}


def test_a_healthy_node_exits_0(node: Node, capsys: Output) -> None:
    assert main(["doctor", node.address, "--engines", "2"]) == 0
    assert node.asked == [("/v1/doctor", f"Bearer {tokens(SETTINGS, 'read')[0]}")]
    shown = capsys.readouterr().out
    assert "it is ready" in shown
    assert "2 live, 2 should" in shown


@pytest.mark.parametrize(("outcome", "code"), [("warn", 0), ("fail", 1)])
def test_a_problem_is_shown_with_its_remedy(
    node: Node, capsys: Output, outcome: str, code: int
) -> None:
    row = {"check": "clocks", "outcome": outcome, "found": "[bold]90 s", "remedy": "run NTP"}
    node.body = json.dumps({**ANSWER, "checks": [row]}).encode()
    assert main(["doctor", node.address]) == code
    shown = capsys.readouterr().out
    assert "[bold]90 s" in shown
    assert "→ run NTP" in shown
    assert main(["doctor", "--json", node.address]) == code
    found = json.loads(capsys.readouterr().out)
    assert found == {"node": "n1", "ok": code == 0, "checks": [row]}


def test_fewer_engines_than_there_should_be_fail(node: Node, capsys: Output) -> None:
    assert main(["doctor", "--json", node.address, "--engines", "4"]) == 1
    assert checks(capsys.readouterr().out)["engines"] == ("fail", "2 live, 4 should")


@pytest.mark.parametrize("prefix", ["", "/", "/internal/"])
def test_the_application_is_tried_where_routers_are_sent_to(
    node: Node, capsys: Output, prefix: str
) -> None:
    url = f"http://{node.address}"
    node.body = json.dumps({**ANSWER, "url": url, "health_path": prefix}).encode()
    assert main(["doctor", "--json", node.address]) == 0
    assert checks(capsys.readouterr().out)["application"] == ("ok", f"it answers at {url}")
    asked = [path for path, _ in node.asked[1:]]
    assert asked == ([f"{prefix.rstrip('/')}/healthz"] if prefix else [])

    with serving() as gone:
        url = f"http://{gone.address}"
    node.body = json.dumps({**ANSWER, "url": url, "health_path": prefix}).encode()
    assert main(["doctor", "--json", node.address]) == 1
    outcome, words = checks(capsys.readouterr().out)["application"]
    assert outcome == "fail"
    assert "Connection refused" in words


def test_a_node_with_another_secret_is_told_of_and_not_of_a_start(
    node: Node, capsys: Output
) -> None:
    node.status = 401
    assert main(["doctor", "--json", node.address]) == 1
    (row,) = json.loads(capsys.readouterr().out)["checks"]
    assert (row["check"], row["outcome"], row["remedy"]) == ("administration", "fail", "")
    assert "the cluster secret here is not the node's" in row["found"]


def test_without_a_secret_or_with_a_wrong_setting_each_mistake_is_a_failed_check(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["doctor", "--json"]) == 1
    assert "SESSIONHA_SECRET" in checks(capsys.readouterr().out)["settings"][1]
    monkeypatch.setenv("SESSIONHA_SECRET", "secret")
    monkeypatch.setenv("SESSIONHA_BACKUP", "1")
    assert main(["doctor", "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)["checks"]
    assert {row["outcome"] for row in rows} == {"fail"}
    assert "`SESSIONHA_BACKUPS`" in rows[0]["found"]
    assert "placeholder" in rows[1]["found"]


def test_a_node_that_does_not_run_is_told_what_its_start_would_meet(
    capsys: Output, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the administration does not answer, a look at this machine tells more."""
    with serving() as living, serving() as dead:
        addresses = (living.server_port, dead.server_port)
    nodes = f"n1=http://127.0.0.1:1,n2=http://127.0.0.1:{addresses[1]}"
    for name, value in {
        "SECRET": SECRET, "NODES": nodes, "NODE": "n1", "STORE": str(tmp_path / "store"),
        "ADMIN": f"127.0.0.1:{addresses[0]}", "BACKUPS": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"SESSIONHA_{name}", value)
    assert main(["doctor", "--json"]) == 1
    found = checks(capsys.readouterr().out)
    assert found["administration"][0] == "fail"
    assert found["settings"][0] == found["store"][0] == "ok"
    assert found["peers"] == ("warn", f"n2 at 127.0.0.1:{addresses[1]}: Connection refused")

    monkeypatch.setenv("SESSIONHA_NODE", "n9")
    assert main(["doctor", "--json"]) == 1
    assert "n9" in checks(capsys.readouterr().out)["settings"][1]

    assert main(["doctor", "--json", f"127.0.0.1:{addresses[0]}"]) == 1
    assert list(checks(capsys.readouterr().out)) == ["administration"]


@pytest.mark.parametrize("kind", ["nfs4", "small"])
def test_a_store_that_cannot_be_or_lies_elsewhere_is_told_before_a_start(
    capsys: Output, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A network file system, and shared memory that is too small for the store."""
    from sessionha.store import place

    with serving() as gone:
        monkeypatch.setenv("SESSIONHA_ADMIN", gone.address)
    monkeypatch.setenv("SESSIONHA_SECRET", SECRET)
    if kind == "small":
        monkeypatch.setattr(place, "_free", lambda base, path: 0)
    else:
        monkeypatch.setattr(place, "file_system", lambda path, mounts=None: kind)
    assert main(["doctor", "--json"]) == 1
    outcome, words = checks(capsys.readouterr().out)["store"]
    expected = ("warn", "MiB free") if kind == "small" else ("fail", "network file system (nfs4)")
    assert (outcome, expected[1] in words) == (expected[0], True)

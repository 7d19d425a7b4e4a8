"""The commands `heal` and `safe-to-stop`: what they ask, print and exit with."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from sessionha.admin.tokens import tokens
from sessionha.cli import healing, main
from tests.cli.test_status import SETTINGS, Node, Output, node

__all__ = ["node"]

READ, OPERATE = (f"Bearer {tokens(SETTINGS, role)[0]}" for role in ("read", "operate"))

FULL: dict[str, Any] = {
    "node": "n1", "answers": True, "complete": True, "old": 0,
    "redundant": {"groups": 90, "bytes": 3 << 20}, "degraded": {"groups": 0, "bytes": 0},
    "at_risk": {"groups": 10, "bytes": 1 << 20},
    "healing": {
        "under_way": True, "domains": 7, "domains_done": 3, "groups": 10, "groups_done": 4,
        "bytes": 1 << 20, "bytes_done": 1 << 19, "passed_over": 0,
    },
}  # fmt: skip

FOUND: dict[str, Any] = {
    "cluster": "shop", "node": "n1", "heal_after": 30.0, "policy": "wait", "under_way": True,
    "delays": [
        {"node": "n2", "state": "failed", "absent": 7.4, "left": 22.6, "word": None},
        {"node": "n4", "state": "returning", "absent": 70.0, "left": None, "word": "hold"},
    ],
    "held": ["n4"],
    "nodes": [FULL, {"node": "n3", "answers": False}],
    "counts": {"healed": 1, "replaced": 2, "refilled": 3, "moved": 0},
}  # fmt: skip

SAID: dict[str, Any] = {
    "node": "n2", "word": "hold", "left": None, "absent": True, "told": ["n3"], "unreachable": [],
}  # fmt: skip

SAFE: dict[str, Any] = {
    "safe": True, "node": "n1", "asked": "n1", "answers": True, "others_serve": True,
    "others_change": True,
    "lost": {"groups": 0, "sessions": 0, "bytes": 0}, "zones": {}, "unreachable": [], "unknown": [],
}  # fmt: skip


def test_heal_shows_who_is_awaited_and_how_many_copies_there_are(
    node: Node, capsys: Output
) -> None:
    node.body = json.dumps(FOUND).encode()
    assert main(["heal", "--url", node.address]) == 0
    assert node.asked == [("/v1/healing", READ)]
    shown = capsys.readouterr().out
    for words in (
        "after 30 s; policy wait", "n2 (failed) for 7 s: awaited for 23 s more",
        "n4 (returning) for 70 s: held until it is back", "90", "10", "4.0",
        "heals 4 of 10 groups, 3 of 7 domains, 0.5 of 1.0 MiB", "does not answer",
        "1 healed, 2 replaced, 3 refilled, 0 moved",
    ):  # fmt: skip
        assert words in shown
    assert main(["heal", "--json", "--url", node.address]) == 0
    assert json.loads(capsys.readouterr().out) == FOUND


def test_heal_says_that_nobody_has_room(node: Node, capsys: Output) -> None:
    waiting = {**FULL, "healing": {**FULL["healing"], "under_way": False, "passed_over": 6}}
    node.body = json.dumps({**FOUND, "nodes": [waiting]}).encode()
    assert main(["heal", "--url", node.address]) == 0
    assert "nobody has room for 6" in capsys.readouterr().out


def test_bars_are_shown_until_nothing_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healing, "EVERY", 0)
    answers = [FOUND, {**FOUND, "delays": []}, {**FOUND, "under_way": False}]
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=120)
    assert healing.follow(iter(answers).__next__, console) == answers[-1]
    assert "n2 is absent" in shown.getvalue()
    told = healing.bars(FOUND)
    assert told["n2 is absent"][:2] == (7.4, 30.0)
    assert told["n1 heals"][:2] == (4, 10)
    assert told["groups of n1"] == (90, 100, "90 of 100 groups have all copies, 10 are at risk")


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["--hold"], "hold"),
        (["--now"], "now"),
        (["--extend", "5min"], "extend=300"),
        (["--extend", "0"], "extend=0"),
    ],
)
def test_an_operator_says_what_becomes_of_a_node(
    words: list[str], asked: str, node: Node, capsys: Output
) -> None:
    node.body = json.dumps(SAID).encode()
    assert main(["heal", "n2", *words, "--url", node.address]) == 0
    assert node.asked == [(f"POST /v1/heal/n2?{asked}", OPERATE)]
    assert "n2: held until it is back (told: n3)" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["n2"], ["--now"], ["n2", "--now", "--hold"]])
def test_a_word_needs_a_node_and_a_node_one_word(
    words: list[str], node: Node, capsys: Output
) -> None:
    assert main(["heal", *words, "--url", node.address]) == 2
    assert "--extend" in capsys.readouterr().err
    assert node.asked == []


def test_who_is_safe_to_stop_exits_0(node: Node, capsys: Output) -> None:
    node.body = json.dumps(SAFE).encode()
    assert main(["safe-to-stop", "n1", "--url", node.address]) == 0
    assert node.asked == [("/v1/safe-to-stop/n1", READ)]
    assert capsys.readouterr().out == ("n1 alone: nothing would be lost\nn1 is safe to stop\n")


def test_who_is_needed_for_copies_of_changes_is_not_safe_to_stop(
    node: Node, capsys: Output
) -> None:
    node.status = 409
    node.body = json.dumps({**SAFE, "safe": False, "others_change": False}).encode()
    assert main(["safe-to-stop", "n1", "--url", node.address]) == 1
    assert "they answer changes with 503 (`min_copies`)" in capsys.readouterr().out


def test_who_is_not_safe_to_stop_exits_1_and_says_why(node: Node, capsys: Output) -> None:
    lost = {"groups": 2, "sessions": 3, "bytes": 4096}
    found = {
        **SAFE, "safe": False, "answers": False, "others_serve": False, "zones": {"east": lost},
        "unreachable": ["n1", "n3"], "unknown": ["n4"],
    }  # fmt: skip
    node.status, node.body = 409, json.dumps(found).encode()
    assert main(["safe-to-stop", "n1", "--zones", "--url", node.address]) == 1
    assert node.asked == [("/v1/safe-to-stop/n1?zones=true", READ)]
    assert capsys.readouterr().out.splitlines() == [
        "n1 alone: nothing would be lost",
        "n1 and east: 3 sessions would be lost, 4096 bytes",
        "too few others would be left to serve: without a majority they answer 503",
        "n1 does not answer: what only it has is not known",
        "n3 did not answer, and count as stopped already",
        "n4 did not tell what they have: there may be more",
        "n1 is not safe to stop",
    ]
    assert main(["safe-to-stop", "n1", "--json", "--url", node.address]) == 1
    assert json.loads(capsys.readouterr().out) == found

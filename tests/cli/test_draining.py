"""The command `drain`: what it asks, prints and exits with."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sessionha.admin.tokens import tokens
from sessionha.cli import main
from tests.cli.test_status import SETTINGS, Node, Output, node

__all__ = ["node"]

OPERATE = f"Bearer {tokens(SETTINGS, 'operate')[0]}"

DONE: dict[str, Any] = {
    "node": "n2", "how": "leaving", "phase": "done", "moved": 7, "waiting": 0, "groups": 0,
    "sessions": 0, "alone": 0, "copies": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("left", "status", "words"),
    [
        ({}, 0, "n2 is drained: others serve its 7 groups of sessions; stop it now"),
        (
            {"groups": 2, "sessions": 3, "alone": 1}, 1,
            "; 2 with 3 sessions could not be handed over, of which 1 sessions have no copy on"
            " another node",
        ),
        (
            {"copies": 4}, 1,
            "; its copies of 4 groups could not be made elsewhere: they have one less when it goes",
        ),
    ],
)  # fmt: skip
def test_drain_says_what_would_be_missed_and_exits_with_1(
    node: Node, capsys: Output, left: dict[str, Any], status: int, words: str
) -> None:
    """ "Stop it now" is said only where nothing would be."""
    node.body = json.dumps(DONE | left).encode()
    assert main(["drain", "n2", "--url", node.address]) == status
    assert node.asked == [("POST /v1/drain/n2", OPERATE)]
    told = capsys.readouterr().out
    assert words in told.replace("\n", " ")
    assert ("stop it now" in told) == (status == 0)

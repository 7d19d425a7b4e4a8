"""The programs of docs/sessions.md do what the page says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from sessionha import SessionMiddleware
from sessionha.keys import new_secret
from sessionha.values import managers
from sessionha.values.codec import encode
from tests.docs.test_readme import blocks

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sessions.md"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page's programs define."""
    monkeypatch.setattr(managers, "_by_name", dict(managers._by_name))
    monkeypatch.setattr(managers, "_by_type", dict(managers._by_type))
    monkeypatch.setattr(managers, "managed", set())  # it is for the words of errors alone
    found: dict[str, Any] = {"__name__": __name__}
    exec(compile("\n".join(blocks(PAGE, "python")), str(PAGE), "exec"), found)
    return found


def test_votes_are_counted(names: dict[str, Any]) -> None:
    app = names["app"]
    app.add_middleware(SessionMiddleware, secret_key=new_secret(), store="memory")
    with TestClient(app) as client:
        assert [client.post("/vote").json() for _ in range(3)] == [1, 2, 3]


def test_a_wizard_has_a_session_of_its_own_until_it_is_done(names: dict[str, Any]) -> None:
    app = names["app"]
    app.add_middleware(SessionMiddleware, secret_key=new_secret(), store="memory")

    def answer(text: str) -> int:
        count: int = client.post("/wizard/next", params={"answer": text}).json()
        return count

    with TestClient(app) as client:
        assert [answer("a"), answer("b")] == [1, 2]
        assert {*client.cookies} == {"session-wizard"}
        client.post("/wizard/done")
        assert {*client.cookies} == {"session"}
        assert answer("c") == 1
        client.post("/logout")
        assert {*client.cookies} == set()


def test_of_two_scores_the_higher_one_stays(names: dict[str, Any]) -> None:
    best = names["Best"]
    stored = {points: encode(points, "best") for points in (3, 5, 8)}
    assert managers.read("best", stored[5]) == best(5)
    operation = managers.operation_between("best", stored[3], stored[5])
    assert operation is not None
    assert managers.changed("best", stored[3], operation) == (stored[5], 0)
    assert managers.changed("best", stored[8], operation) == (stored[8], 0)

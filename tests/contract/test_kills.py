"""kill -9 in mid-session under servers of one framework, every day of another; more of it:
`tests.contract.kills`."""

from __future__ import annotations

import os
import sys
import time

import pytest

from tests.contract.kills import run

KILLS = int(os.environ.get("CONTRACT_KILLS", "5"))
DAY = int(os.environ.get("CONTRACT_DAY", time.time() // 86_400))
KINDS = ("fastapi-uvicorn", "flask-mixed", "django-mixed")


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="the shared store needs Linux")
@pytest.mark.parametrize("kind", [KINDS[DAY % len(KINDS)]])
async def test_nothing_that_was_acknowledged_dies_with_a_server(kind: str) -> None:
    outcome = await run(kind, KILLS)
    assert (outcome.lost, outcome.phantom, outcome.kills) == (set(), set(), KILLS)
    assert outcome.writes + outcome.refused == 8 * KILLS
    assert outcome.writes >= 7 * KILLS

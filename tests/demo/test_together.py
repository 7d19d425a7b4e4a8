"""An application in FastAPI and one in Django share a client, with real processes."""

from __future__ import annotations

import sys

import pytest

from demo_app.together.__main__ import show


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the shared store needs Linux")
async def test_both_sessions_are_together_and_fail_over_together() -> None:
    said: list[str] = []
    assert await show(1, said.append, nodes=2) == []
    assert said[0].startswith("both sessions: 1 group")
    assert "cart ['tea']" in said[2]
    assert "user ada" in said[2]

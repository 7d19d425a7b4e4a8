"""The contract of FastAPI applications."""

from __future__ import annotations

import sys

import pytest

from tests.contract.claims import Contract
from tests.contract.kills import kill_again_and_again
from tests.contract.site import uvicorn


class TestFastAPI(Contract):
    command = uvicorn("fastapi_app:app")


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the shared store needs Linux")
async def test_nothing_is_lost_when_servers_are_killed() -> None:
    """`python -m tests.contract uvicorn fastapi_app:app --kills 100` kills more."""
    told = await kill_again_and_again(TestFastAPI.command, kills=5)
    assert told.good, told
    assert told.answered > 100

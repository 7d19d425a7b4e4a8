"""How healing lets requests go first."""

from __future__ import annotations

import asyncio

import pytest

from sessionha.state import pace


async def test_on_a_busy_loop_small_batches_rest_as_often_as_full_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """256 domains with two groups each are not 256 times a rest."""
    rests: list[float] = []

    async def sleep(seconds: float) -> None:
        if seconds:
            rests.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(pace, "BUSY", 0.0)  # every turn counts as busy
    monkeypatch.setattr(pace, "REST", 1e12)  # and is rested for as long as can be
    paced = pace.Pace()
    await paced.let_requests(1)
    assert rests == [pace.LONGEST_REST] * pace.RESTS
    rests.clear()
    for _ in range(256):
        await paced.let_requests(2 / 32)
    assert len(rests) == 16 * pace.RESTS

"""What has expired, where the cookie is the ID alone and says no deadline, as Django's is."""

from __future__ import annotations

import asyncio

import pytest

from sessionha.errors import SessionUnavailable
from sessionha.state.node import Options
from tests.simulation.scenes import LIFETIMES, Scene, simulated


@simulated(nodes=3, options=Options(backups=1, heal_after=30.0, rebalance=0, drill=0))
async def test_an_expired_id_is_looked_for_until_an_absent_node_is_given_up(scene: Scene) -> None:
    """R12, R18: nobody who is there knows that it expired, and who is away may have it still."""
    await scene.create("n1", a="1")
    await asyncio.sleep(LIFETIMES.idle_timeout / 1000 + 3600)
    for _ in range(3):
        for host in scene.world.living:
            await host.engines[0].upkeep.sweep()
        await asyncio.sleep(3600)
    assert await scene.see("n2") is None
    await scene.crash("n3")
    with pytest.raises(SessionUnavailable):
        await scene.see("n2")
    scene.world.forgotten.add("n3")
    assert await scene.see("n2") is None

"""What a commit is applied on top of."""

from __future__ import annotations

import pytest

from sessionha.errors import StaleSession
from sessionha.peer.messages import Batch, SessionChange
from tests.simulation.scenes import GROUP, KEY, Scene, simulated


@simulated()
async def test_a_change_is_not_applied_on_top_of_less_than_the_request_has_read(
    scene: Scene,
) -> None:
    """R16, for the write of a request whose group went away, and every newer copy with it, while
    it ran."""
    await scene.create("n1", a="1")
    scene.world.pause("n2")
    scene.world.expel("n2")
    await scene.gone_from_view("n2")
    read = (await scene.put("n1", a="2")).position
    scene.world.crash("n1")
    scene.world.crash("n3")
    scene.world.resume("n2")
    await scene.gone_from_view("n1", "n3")
    change = SessionChange(KEY, puts=(("b", "value", b"3"),))
    with pytest.raises(StaleSession):
        await scene.at("n2").commit(Batch(GROUP, (change,)), fresh=False, floor=read)
    assert scene.copies() == {"n2": 1}

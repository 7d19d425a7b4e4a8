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
    await scene.leave_an_old_copy()
    change = SessionChange(KEY, puts=(("b", "value", b"3"),))
    with pytest.raises(StaleSession):
        await scene.at("n2").commit(Batch(GROUP, (change,)), fresh=False, floor=scene.cookie)
    assert scene.copies() == {"n2": 1}

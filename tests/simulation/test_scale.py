"""Membership of many nodes; `python -m tests.simulation scale` shows it with a thousand."""

from __future__ import annotations

import pytest

from tests.simulation.scale import play


@pytest.mark.parametrize("seed", [1, 2])
def test_views_converge_with_traffic_that_does_not_grow(seed: int) -> None:
    """System 3 (l): after starts at once and one by one, deaths, and a split into 60 and 40 of 100
    that heals, all hold one view; and while nothing happens a node sends no more messages in a
    large cluster than in a small one."""
    few, many = play(10, seed), play(60, seed)
    assert few.converged, few
    assert many.converged, many
    assert many.messages_per_node_second <= 1.1 * few.messages_per_node_second

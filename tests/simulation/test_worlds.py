"""Random worlds: whatever fails, nothing acknowledged is lost and nothing destroyed returns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.simulation import fresh
from tests.simulation.histories import EVERYTHING, TROUBLES, Plan, history, play
from tests.simulation.loop import run
from tests.simulation.scenes import digest, trace_under
from tests.simulation.seeds import IN_AVAILABLE, kept_seeds, line, swarm


@pytest.mark.parametrize(("seed", "plan"), kept_seeds())
def test_a_world_that_failed_once_passes(seed: int, plan: Plan) -> None:
    run(history(seed, plan))


@pytest.mark.parametrize("seed", range(8))
def test_crashes_lose_nothing_acknowledged(seed: int) -> None:
    """G1, G2, G4, G5, G6 with one crash at a time: every read is current."""
    play(1000 + seed, Plan(engines=1 + seed % 2, width=1 + seed % 3, lossy=0.1))


@pytest.mark.parametrize("seed", range(8))
def test_no_kind_of_trouble_loses_anything_acknowledged(seed: int) -> None:
    """G1 to G7 with pauses, exclusions, cuts, dead engines, restarts and lost responses."""
    plan = Plan(engines=2, width=1 + seed % 3, troubles=EVERYTHING, lossy=0.1, upkeep=True)
    play(2000 + seed, plan)


@pytest.mark.parametrize("seed", range(4))
def test_two_backups_survive_two_crashes_at_once(seed: int) -> None:
    """G1 with k = 2 on five nodes."""
    play(3000 + seed, Plan(nodes=5, backups=2, width=2))


@pytest.mark.parametrize("kind", TROUBLES)
def test_each_kind_of_trouble_alone(kind: str) -> None:
    """Each of them breaks nothing by itself."""
    play(4000, Plan(nodes=4, engines=2, width=2, troubles=kind, lossy=0.1, upkeep=True))


@pytest.mark.parametrize("kind", IN_AVAILABLE)
def test_nodes_that_agree_by_themselves(kind: str) -> None:
    """Available mode: G1 to G6 while the living reach each other, and G12 after partitions."""
    play(5000, Plan(engines=2, troubles=kind, upkeep=True, views="available", requests=30))


def test_fresh_seeds() -> None:
    """Worlds that nobody has tried; a line that fails belongs into `seeds.txt`."""
    failed = []
    for seed in fresh.seeds():
        plan = swarm(seed)
        try:
            play(seed, plan)
        except Exception as error:  # noqa: BLE001 - a world that ends in any error is a violation
            failed.append(f"{line(seed, plan)}   # {type(error).__name__}: {error}")
    assert not failed, "\n".join(failed)


def test_a_line_of_seeds_says_the_whole_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is printed for a violation can be kept, and is the same world."""
    plans = [(seed, swarm(seed)) for seed in range(30)]
    kept = tmp_path / "seeds.txt"
    kept.write_text("\n".join(line(seed, plan) + "  # why" for seed, plan in plans))
    monkeypatch.setattr("tests.simulation.seeds.KEPT", kept)
    assert kept_seeds() == plans
    assert len({replace(plan, troubles="") for _, plan in plans}) > 20, "a swarm"


def test_one_seed_is_one_world() -> None:
    """The same seed gives the same trace, also where Python's hashes differ."""
    plan = Plan(nodes=4, engines=2, width=2, troubles="+".join(TROUBLES), upkeep=True)
    assert {trace_under(hashes, 7, plan) for hashes in (1, 2)} == {digest(play(7, plan))}

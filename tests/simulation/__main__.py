"""Run many worlds: `python -m tests.simulation --seeds N`; one line of JSON tells the result."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import dataclass

from tests.simulation.histories import EVERYTHING, Plan, history
from tests.simulation.loop import run
from tests.simulation.seeds import line
from tests.simulation.world import World

ENOUGH = 20
"""Violations after which a run stops: they have few causes."""


@dataclass
class Totals:
    """What a run has tried."""

    histories: int = 0
    operations: int = 0
    faults: int = 0
    violations: int = 0
    virtual_hours: float = 0.0


def plan_of(seed: int, nodes: int, backups: int, engines: int) -> Plan:
    """Every mixture of troubles gets its share of the seeds; 0 means that the seed decides."""
    backups = backups or (1, 1, 2)[seed % 3]
    return Plan(
        nodes=nodes or (3, 3, 4, 5, 2)[seed % 5] + (backups > 1),
        backups=backups,
        engines=engines or 1 + seed // 2 % 2,
        kept=(0.5, 0.0, 1.0)[seed // 5 % 3],
        troubles=("crash", EVERYTHING, "crash+engine", "crash+pause", "expel", "restart+cut")[
            seed % 6
        ],
        width=1 + seed // 3 % 3,
        lossy=(0.0, 0.1)[seed // 7 % 2],
        upkeep=seed // 4 % 2 == 1,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many worlds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--nodes", type=int, default=0, help="by default the seed decides")
    parser.add_argument("--backups", type=int, default=0, help="by default the seed decides")
    parser.add_argument("--engines", type=int, default=0, help="by default the seed decides")
    chosen = parser.parse_args()
    logging.getLogger("sessionha").addHandler(logging.NullHandler())
    totals = Totals()
    for seed in range(chosen.first, chosen.first + chosen.seeds):
        _try(seed, plan_of(seed, chosen.nodes, chosen.backups, chosen.engines), totals)
        if totals.violations >= ENOUGH:
            break
    totals.virtual_hours = round(totals.virtual_hours, 3)
    print(json.dumps(vars(totals)))
    return 1 if totals.violations else 0


def _try(seed: int, plan: Plan, totals: Totals) -> None:
    worlds: list[World] = []
    totals.histories += 1
    try:
        run(history(seed, plan, worlds.append))
    except Exception as error:  # noqa: BLE001 - a world that ends in any error is a violation
        totals.violations += 1
        print(f"{line(seed, plan)}   # {type(error).__name__}: {error}", file=sys.stderr)
    for world in worlds:
        totals.operations += world.operations
        totals.faults += world.troubles + world.lost_messages
        totals.virtual_hours += world.ended / 3600


if __name__ == "__main__":
    sys.exit(main())

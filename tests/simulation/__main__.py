"""Run many worlds: `python -m tests.simulation --seeds N`; one line of JSON tells the result.

`python -m tests.simulation scale --nodes 10 100 1000` tells how membership bears many nodes.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

from tests.simulation import scale as clusters
from tests.simulation.histories import TROUBLES, Plan, play
from tests.simulation.mutants import RULES, hunt
from tests.simulation.seeds import line, swarm
from tests.simulation.world import World

DAY = 86_400.0

GROWTH = 1.1
"""How much the messages of one node may grow with the number of nodes, while nothing happens."""

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

    def add(self, worlds: list[World]) -> None:
        self.histories += 1
        for world in worlds:
            self.operations += world.operations
            self.faults += world.troubles + world.lost_messages
            self.virtual_hours += world.ended / 3600


def main() -> int:
    if sys.argv[1:2] == ["scale"]:
        return scale(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many worlds")
    parser.add_argument("--first", type=int, help="the first seed (0); `--fresh`: any")
    parser.add_argument("--fresh", action="store_true", help="seeds that nobody has tried")
    parser.add_argument("--nodes", type=int, choices=(2, 3, 4, 5), help="(the seed decides)")
    parser.add_argument("--backups", type=int, help="(the seed decides)")
    parser.add_argument("--engines", type=int, help="(the seed decides)")
    views = ("oracle", "available", "quorum")
    parser.add_argument("--views", choices=views, help="(the seed decides)")
    parser.add_argument("--troubles", help=f"of {'+'.join(TROUBLES)} (the seed decides)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--without", choices=RULES, metavar="RULE", help="switch one rule off")
    parser.add_argument("--mutants", action="store_true", help="switch every rule off, one by one")
    parser.add_argument("--verbose", action="store_true", help="tracebacks of violations")
    chosen = parser.parse_args()
    if chosen.mutants:
        return mutants(chosen.seconds)
    first = chosen.first or 0
    if chosen.fresh:
        first = random.SystemRandom().randrange(1_000_000, 1_000_000_000)
        print(f"seeds {first} to {first + chosen.seeds - 1}", file=sys.stderr)
    told = {
        name: getattr(chosen, name)
        for name in ("nodes", "backups", "engines", "views", "troubles")
        if getattr(chosen, name) is not None
    }
    rule = RULES[chosen.without].broken() if chosen.without else nullcontext()
    with rule:
        totals = _run(first, chosen.seeds, lambda seed: _plan(seed, told), chosen)
    totals.virtual_hours = round(totals.virtual_hours, 3)
    print(json.dumps(vars(totals)))
    return 1 if totals.violations else 0


def _run(
    first: int, seeds: int, plan_of: Callable[[int], Plan], chosen: argparse.Namespace
) -> Totals:
    totals = Totals()
    began = time.monotonic()
    for seed in range(first, first + seeds):
        if totals.violations >= ENOUGH or time.monotonic() - began > chosen.seconds:
            break
        plan = plan_of(seed)
        worlds: list[World] = []
        try:
            play(seed, plan, worlds.append)
        except Exception as error:  # noqa: BLE001 - a world that ends in any error is a violation
            totals.violations += 1
            print(f"{line(seed, plan)}   # {type(error).__name__}: {error}", file=sys.stderr)
            if chosen.verbose:
                traceback.print_exception(error)
        totals.add(worlds)
    return totals


def scale(words: list[str]) -> int:
    """Let clusters of so many nodes start, lose some, split and meet again."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation scale")
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 100, 1000], metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="only the result, as one line of JSON")
    chosen = parser.parse_args(words)
    stories = []
    for nodes in chosen.nodes:
        say = (lambda _: None) if chosen.json else print
        stories.append(clusters.play(nodes, chosen.seed, say))
    least = min(story.messages_per_node_second for story in stories)
    most = max(story.messages_per_node_second for story in stories)
    print(json.dumps({"scale": [asdict(story) for story in stories]}))
    fine = all(story.converged for story in stories) and most <= GROWTH * least
    return 0 if fine else 1


def _plan(seed: int, told: Mapping[str, Any]) -> Plan:
    """What the seed decides, but for what was told. Only the oracle expels a living node."""
    plan = replace(swarm(seed), **told)
    if plan.views == "oracle" or "troubles" in told:
        return plan
    kinds = [kind for kind in plan.kinds if kind != "expel"]
    return replace(plan, troubles="+".join(kinds) or "crash")


def mutants(seconds: float) -> int:
    """Switch every rule off, one by one, on all cores; a table of what it took to notice."""
    began = time.monotonic()
    escaped = 0
    print(f"{'rule':<28} {'profile':<10} {'caught after':>12}  by")
    with ProcessPoolExecutor() as pool:
        hunts = {name: pool.submit(_hunt, name) for name in RULES}
        for name, done in hunts.items():
            try:
                tried, words = done.result(max(0, began + min(seconds, DAY) - time.monotonic()))
            except TimeoutError:
                pool.shutdown(wait=False, cancel_futures=True)
                print("out of time", file=sys.stderr)
                return 1
            escaped += not words
            profile = RULES[name].profile
            print(f"{name:<28} {profile:<10} {tried:>12}  {words or 'NOT CAUGHT'}", flush=True)
    minutes = round((time.monotonic() - began) / 60, 1)
    print(json.dumps({"rules": len(RULES), "escaped": escaped, "minutes": minutes}))
    return 1 if escaped else 0


def _hunt(name: str) -> tuple[int, str]:
    return hunt(RULES[name])


if __name__ == "__main__":
    sys.exit(main())

"""The worlds that failed once, as `seeds.txt` keeps them."""

from __future__ import annotations

from pathlib import Path

from tests.simulation.histories import Plan


def kept_seeds() -> list[tuple[int, Plan]]:
    """Every line's seed and plan."""
    found = []
    for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines():
        words = line.split("#")[0].split()
        if words:
            found.append((int(words[0]), _plan(words[1:])))
    return found


def _plan(words: list[str]) -> Plan:
    nodes, backups, engines, kept = words[:4]
    plan = Plan(int(nodes), int(backups), int(engines), float(kept))
    if len(words) == 4:
        return plan
    troubles, width, lossy, upkeep = words[4:]
    return Plan(
        int(nodes), int(backups), int(engines), float(kept), troubles,
        width=int(width), lossy=float(lossy), upkeep=upkeep == "upkeep",
    )  # fmt: skip


def line(seed: int, plan: Plan) -> str:
    """How `seeds.txt` keeps a world."""
    upkeep = "upkeep" if plan.upkeep else "-"
    return (
        f"{seed} {plan.nodes} {plan.backups} {plan.engines} {plan.kept} {plan.troubles}"
        f" {plan.width} {plan.lossy} {upkeep}"
    )

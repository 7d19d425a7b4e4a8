"""Plans for seeds: drawn from a swarm, or kept in `seeds.txt` because they failed once."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from random import Random
from typing import Any

from tests.simulation.histories import TROUBLES, Plan
from tests.simulation.world import Views

ALONE = 0.3
"""How likely each kind of trouble is in a plan: swarm testing, where leaving a kind out lets the
others go further (Groce and others, "Swarm Testing", 2012)."""

AGREED = 0.3
"""How many of the other worlds agree on views by votes, and not by an oracle."""

KEPT = Path(__file__).parent / "seeds.txt"

IN_AVAILABLE = (
    "crash", "engine", "doom", "reboot", "restart", "majority", "weather", "pause", "cut", "split",
)  # fmt: skip
"""What happens to nodes that agree by themselves; who is excluded is theirs to say."""


LATER = ("drain", "word")
"""Drawn apart from the others, so that worlds of before are the same without them."""

IN_QUORUM = (*IN_AVAILABLE, "link", "full")


def swarm(seed: int) -> Plan:
    """What the seed is tried in. The same words are drawn whatever Python's hashes are."""
    random = Random(f"plan {seed}")
    available = random.random() < 0.2
    nodes = random.choice((2, 3, 3, 4, 5))
    kinds = IN_AVAILABLE if available else [kind for kind in TROUBLES if kind not in LATER]
    troubles = [kind for kind in kinds if random.random() < ALONE] or ["crash"]
    if nodes == 2:
        troubles = [kind for kind in troubles if kind not in ("split", "full")] or ["crash"]
    if available and nodes > 2 and Random(f"link {seed}").random() < ALONE:
        troubles.append("link")
    if Random(f"drain {seed}").random() < ALONE:
        troubles.append("drain")
    if Random(f"word {seed}").random() < ALONE:
        troubles.append("word")
    views: Views = "available" if available else "oracle"
    if not available and Random(f"views {seed}").random() < AGREED and nodes > 2:
        views = "quorum"
        troubles = [kind for kind in troubles if kind != "expel"] or ["crash", "split"]
    return Plan(
        nodes=nodes,
        backups=random.choice((1, 2)) if nodes > 3 else 1,
        engines=random.choice((1, 2)),
        kept=random.choice((0.0, 0.5, 1.0)),
        troubles="+".join(troubles),
        width=random.choice((1, 2, 3)),
        lossy=random.choice((0.0, 0.1)),
        upkeep=random.random() < 0.5,
        views=views,
        late=random.choice((0.0, 0.0, 0.01)),
        hasty=random.choice((0.0, 0.0, 0.05)),
        astray=random.choice((0.0, 0.2)),
        short=random.random() < 0.15,
        think=random.choice((0.0, 0.03)),
        reads="confirmed" if random.random() < 0.25 else "local",
        concurrency="serialize" if random.random() < 0.25 else "merge",
        urgent=Random(f"urgent {seed}").random() < ALONE,
    )


def kept_seeds() -> list[tuple[int, Plan]]:
    """Every line's seed and plan."""
    found = []
    for line in KEPT.read_text().splitlines():
        words = line.split("#")[0].split()
        if words:
            found.append((int(words[0]), _plan(words[1:])))
    return found


def _plan(words: list[str]) -> Plan:
    told: dict[str, Any] = {}
    kinds: dict[str, type] = {name: type(value) for name, value in vars(Plan()).items()}
    for word in words:
        name, _, value = word.partition("=")
        told[name] = value == "True" if kinds[name] is bool else kinds[name](value)
    return replace(Plan(), **told)


def line(seed: int, plan: Plan) -> str:
    """How `seeds.txt` keeps a world: what differs from a plain plan."""
    words = [
        f"{field.name}={getattr(plan, field.name)}"
        for field in fields(Plan)
        if getattr(plan, field.name) != field.default
    ]
    return " ".join([str(seed), *words])

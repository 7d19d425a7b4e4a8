"""Shows a node's status to a person."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

MIB: Final = 2**20

_SHOWN: Final = ("commits", "handovers", "promotions", "unconfirmed", "gone")


def show(status: Mapping[str, Any], console: Console) -> None:
    """Print the status as a person reads it."""
    view, store, counts = status["view"], status["store"], status["counts"]
    waits = f", waits for {status['waiting_for']}" if status["waiting_for"] else ""
    lines = {
        "cluster": f"{status['cluster']}, {status['consistency']} mode,"
        f" {status['backups']} backups",
        "node": f"{status['node']} ({status['state']}{waits}), engines"
        f" {', '.join(map(str, status['engines']))}",
        "view": f"{view['number']}, {len(status['members'])} members{votes(view)}",
        "store": f"{store['used'] / MIB:.1f} of {store['limit'] / MIB:.1f} MiB",
        "copies": copies(status["health"]),
        "verified": verified(status.get("recoverable")),
        "done": ", ".join(f"{counts.get(f'state/{name}', 0)} {name}" for name in _SHOWN),
        "version": status["versions"]["sessionha"],
    }
    for name, words in lines.items():
        console.print(f"{name:<12} {words}", highlight=False, markup=False, soft_wrap=True)
    console.print(_members(status))


def verified(found: Mapping[str, Any] | None) -> str:
    """What the drill has found in the copies that the node keeps for others."""
    if found is None or found["percent"] is None:
        return "nothing yet"
    flaws = ", ".join(f"{count} {flaw}" for flaw, count in sorted(found["flaws"].items()))
    worst = f" ({flaws})" if flaws else ""
    return (
        f"{found['percent']:g} % of {found['sessions']} sessions recoverable{worst},"
        f" looked at within {found['oldest_seconds']:.0f} s"
    )


def votes(view: Mapping[str, Any]) -> str:
    """Who decides the next view, where a majority does."""
    if not view.get("electors"):
        return ""
    silent = sorted(set(view["electors"]) - set(view["voters"]))
    absent = f" ({', '.join(silent)} absent)" if silent else ""
    return f"; {view['majority']} of {', '.join(view['voters'])} decide the next{absent}"


def copies(health: Mapping[str, Any]) -> str:
    """How many copies a node's groups have."""
    words = ((health["redundant"], "redundant"), (health["degraded"], "degraded"))
    told = [f"{share['groups']} {name}" for share, name in words]
    told.append(f"{health['at_risk']['groups']} at risk")
    size = sum(health[name]["bytes"] for name in ("redundant", "degraded", "at_risk"))
    counting = "" if health["complete"] else ", counting"
    return f"of its groups {', '.join(told)} ({size / MIB:.1f} MiB{counting})"


def delayed(other: Mapping[str, Any]) -> str:
    """How an absent node is awaited, as the end of a phrase."""
    delay = other.get("delay")
    if delay is None:
        return ""
    return f", {waits(delay)}"


def waits(delay: Mapping[str, Any]) -> str:
    """What becomes of the seats of an absent node."""
    if delay["word"] == "hold":
        return "held until it is back"
    if delay["left"] is None:
        return "awaited without end"
    if not delay["left"]:
        return "its seats go to others"
    extended = ", extended" if delay["word"] == "extend" else ""
    return f"awaited for {math.ceil(delay['left'])} s more{extended}"


def held(found: Mapping[str, Any], node: str) -> str:
    """Whether an absence that is to come was announced."""
    return ", held when it goes" if node in found["held"] else ""


def _members(status: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("node", "state", "since view", "peer address", "URL", "zone"):
        table.add_column(heading, overflow="fold")
    rows = [
        (
            each["node"],
            each["state"] + held(status, each["node"]),
            each["joined"],
            each["peer"],
            each["url"],
            each["zone"],
        )
        for each in status["members"]
    ]
    for other in status["others"]:
        awaited = ", may hold sessions" if other["awaited"] else ""
        rows.append((other["node"], other["state"] + awaited + delayed(other), "", "", "", ""))
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))  # plain: a name is no markup
    return table

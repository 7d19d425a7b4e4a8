"""Shows a node's status to a person."""

from __future__ import annotations

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
        "done": ", ".join(f"{counts.get(f'state/{name}', 0)} {name}" for name in _SHOWN),
        "version": status["versions"]["sessionha"],
    }
    for name, words in lines.items():
        console.print(f"{name:<12} {words}", highlight=False, markup=False, soft_wrap=True)
    console.print(_members(status))


def votes(view: Mapping[str, Any]) -> str:
    """Who decides the next view, where a majority does."""
    if not view.get("electors"):
        return ""
    silent = sorted(set(view["electors"]) - set(view["voters"]))
    absent = f" ({', '.join(silent)} absent)" if silent else ""
    return f"; {view['majority']} of {', '.join(view['voters'])} decide the next{absent}"


def _members(status: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("node", "state", "since view", "peer address", "URL", "zone"):
        table.add_column(heading, overflow="fold")
    rows = [
        (each["node"], each["state"], each["joined"], each["peer"], each["url"], each["zone"])
        for each in status["members"]
    ]
    for other in status["others"]:
        awaited = ", may hold sessions" if other["awaited"] else ""
        rows.append((other["node"], other["state"] + awaited, "", "", "", ""))
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))  # plain: a name is no markup
    return table

"""Shows a node's picture of the topology to a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sessionha.cli.sessions import ago
from sessionha.cli.status import delayed, held, votes

SHORT: Final = 8
"""Characters of an incarnation that tell two of one node apart."""

_HEADINGS: Final = (
    "node", "state", "role", "zone", "weight", "incarnation", "since view", "watches", "address",
)  # fmt: skip


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print the topology as a person reads it."""
    view, waits = found["view"], found["waiting_for"]
    lines = {
        "cluster": f"{found['cluster']}, {found['consistency']} mode",
        "seen by": f"{found['node']} ({found['state']}{f', waits for {waits}' if waits else ''})",
        "view": f"{view['number']}, {len(found['members'])} members{votes(view)}",
        "changed": _change(found["last_change"]),
        "absent": f"{', '.join(found['absent'])}, by proof" if found["absent"] else "nobody",
        "description": _description(found["description"]),
    }
    if found["detours"]:
        ways = (f"{node} through {via}" for node, via in found["detours"].items())
        lines["detours"] = ", ".join(ways)
    for name, words in lines.items():
        console.print(f"{name:<12} {words}", highlight=False, markup=False, soft_wrap=True)
    console.print(_members(found))


def _change(last: Mapping[str, Any] | None) -> str:
    if last is None:
        return "not since this process started"
    what = ", ".join(f"{each['node']} {each['kind']}" for each in last["changes"])
    return f"{ago(last['seconds_ago'])}: {what} (view {last['view']})"


def _description(description: Mapping[str, Any]) -> str:
    others = [f"{node} has another: {what}" for node, what in description["differing"].items()]
    return ", but ".join([description["hash"] or "none", *others])


def _members(found: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in _HEADINGS:
        table.add_column(heading, overflow="fold")
    rows = [
        (
            each["node"], each["state"] + held(found, each["node"]), each["role"], each["zone"],
            each["weight"], each["incarnation"][:SHORT], each["joined"],
            ", ".join(each["watches"]), each["peer"],
        )
        for each in found["members"]
    ]  # fmt: skip
    empty = [""] * (len(_HEADINGS) - 2)
    rows += [(each["node"], each["state"] + delayed(each), *empty) for each in found["others"]]
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))  # plain: a name is no markup
    return table

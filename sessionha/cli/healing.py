"""Shows a person how many copies there are, who is awaited, and what a stop would cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from sessionha.cli.status import MIB, waits

EVERY: Final = 0.5
"""Seconds between two looks while bars are shown."""

PATIENCE: Final = 70.0
"""Seconds for an answer for which every node may look at all its groups."""

_LEVELS: Final = (("redundant", "redundant"), ("degraded", "degraded"), ("at_risk", "at risk"))


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print the numbers once."""
    usual = found["heal_after"]
    delay = "by hand only" if usual is None else f"after {usual:g} s"
    made = ", ".join(f"{count} {name}" for name, count in found["counts"].items())
    lines = [
        f"{'cluster':<12} {found['cluster']}, seen by {found['node']}",
        f"{'copies':<12} of absent nodes are made elsewhere {delay}; policy {found['policy']}",
        f"{'made here':<12} {made}",
        *(f"{'absent':<12} {_absent(each)}" for each in found["delays"]),
    ]
    if found["held"]:
        lines.append(f"{'held':<12} {', '.join(found['held'])}")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(_nodes(found))


def _absent(delay: Mapping[str, Any]) -> str:
    return f"{delay['node']} ({delay['state']}) for {delay['absent']:.0f} s: {waits(delay)}"


def _nodes(found: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("node", *(words for _, words in _LEVELS), "MiB", "old copies", ""):
        table.add_column(heading, overflow="fold")
    for each in found["nodes"]:
        if each["answers"]:
            size = sum(each[name]["bytes"] for name, _ in _LEVELS)
            groups = [each[name]["groups"] for name, _ in _LEVELS]
            note = "" if each["complete"] else "counting"
            if waiting := each["healing"]["passed_over"]:
                note = f"nobody has room for {waiting}"
            if each["healing"]["under_way"]:
                note = f"heals {_course(each['healing'])[2]}"
            cells = [each["node"], *groups, f"{size / MIB:.1f}", each["old"], note]
        else:
            cells = [each["node"], *[""] * 5, "does not answer"]
        table.add_row(*(Text(str(cell)) for cell in cells))  # plain: a name is no markup
    return table


def follow(ask: Callable[[], dict[str, Any]], console: Console) -> dict[str, Any]:
    """Show bars until nothing is under way any more; what was found last."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[words]}", markup=False),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, transient=True) as shown:
        while (found := ask())["under_way"]:
            told = bars(found)
            for name in tasks.keys() - told.keys():
                shown.remove_task(tasks.pop(name))
            for name, (done, total, words) in told.items():
                if name not in tasks:
                    tasks[name] = shown.add_task(name, words="")
                shown.update(tasks[name], completed=done, total=max(total, 1), words=words)
            time.sleep(EVERY)
    return found


def bars(found: Mapping[str, Any]) -> dict[str, tuple[float, float, str]]:
    """By its name each bar: how much is done of how much, and words beside it."""
    told: dict[str, tuple[float, float, str]] = {}
    for delay in found["delays"]:
        if delay["left"]:
            whole = delay["absent"] + delay["left"]
            told[f"{delay['node']} is absent"] = (delay["absent"], whole, waits(delay))
    for each in found["nodes"]:
        if each["answers"]:
            groups = [each[name]["groups"] for name, _ in _LEVELS]
            words = f"{groups[0]} of {sum(groups)} groups have all copies"
            if groups[2]:
                words += f", {groups[2]} are at risk"
            told[f"groups of {each['node']}"] = (groups[0], sum(groups), words)
        if each["answers"] and each["healing"]["under_way"]:
            told[f"{each['node']} heals"] = _course(each["healing"])
    return told


def _course(healing: Mapping[str, Any]) -> tuple[float, float, str]:
    done, whole = healing["groups_done"], healing["groups"]
    words = (
        f"{done} of {whole} groups, {healing['domains_done']} of {healing['domains']} domains,"
        f" {healing['bytes_done'] / MIB:.1f} of {healing['bytes'] / MIB:.1f} MiB"
    )
    return done, whole, words


def show_word(said: Mapping[str, Any], console: Console) -> None:
    """Print what became of an operator's word."""
    if said["absent"]:
        words = f"{said['node']}: {waits(said)}"
    elif said["word"] == "hold":
        words = f"{said['node']} is a member; when it goes it is awaited until it is back"
    else:
        words = f"{said['node']} is a member; its next absence has the delay that was said"
    lines = [f"{words} (told: {', '.join(said['told']) or 'nobody else'})"]
    if silent := said["unreachable"]:
        lines.append(f"{', '.join(silent)} did not answer, and are told again")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def show_safety(found: Mapping[str, Any], console: Console) -> None:
    """Print what would be lost."""
    node = found["node"]
    lines = [f"{node} alone: {_lost(found['lost'])}"]
    for zone, lost in sorted(found["zones"].items()):
        lines.append(f"{node} and {zone}: {_lost(lost)}")
    if not found["others_serve"]:
        lines.append("too few others would be left to serve: without a majority they answer 503")
    elif not found["others_change"]:
        lines.append(
            "too few others would be left that take clients and copies: they answer changes with"
            " 503 (`min_copies`)"
        )
    if not found["answers"]:
        lines.append(f"{node} does not answer: what only it has is not known")
    if others := [each for each in found["unreachable"] if each != node]:
        lines.append(f"{', '.join(others)} did not answer, and count as stopped already")
    if others := [each for each in found["unknown"] if each != node]:
        lines.append(f"{', '.join(others)} did not tell what they have: there may be more")
    lines.append(f"{node} is{'' if found['safe'] else ' not'} safe to stop")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _lost(lost: Mapping[str, int]) -> str:
    if not lost["groups"]:
        return "nothing would be lost"
    sessions = lost["sessions"]
    return f"{sessions} session{'' if sessions == 1 else 's'} would be lost, {lost['bytes']} bytes"

"""Drains a node, and shows a person how far it is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from sessionha.cli import asking

EVERY: Final = 0.25
"""Seconds between two questions how far it is."""

_PHASES: Final = {
    "announced": "routers are sent elsewhere",
    "handing over": "groups of sessions are handed over",
    "copying": "copies are made elsewhere",
}


def drain(
    url: str, bearer: str, node: str, *, restarts: bool, console: Console | None
) -> dict[str, Any]:
    """Drain the node and wait until that is done; how it ended. `console`: where to show it.

    Raises:
        NoAnswer: see `asking.ask`.
    """
    path = f"/v1/drain/{quote(node, safe='')}"
    begun = f"{path}?restart=1" if restarts else path
    found = asking.ask(url, begun, bearer, has="phase", method="POST")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=console, transient=True, disable=console is None) as shown:
        bar = shown.add_task("", total=None)
        while found["phase"] != "done":
            moved = found["moved"]
            total = moved + found["waiting"] or None
            words = _PHASES.get(found["phase"], "")
            shown.update(bar, description=words, completed=moved, total=total)
            time.sleep(EVERY)
            found = asking.ask(url, path, bearer, has="phase")
            if not found["how"]:
                raise asking.NoAnswer(f"{node} was told to drain no more")
    return found


def cancel(url: str, bearer: str, node: str) -> dict[str, Any]:
    """Let the node take clients again.

    Raises:
        NoAnswer: see `asking.ask`.
    """
    path = f"/v1/drain/{quote(node, safe='')}"
    return asking.ask(url, path, bearer, has="phase", method="DELETE")


def is_safe(done: Mapping[str, Any]) -> bool:
    """Whether nothing would be missed if the node were stopped now."""
    return not done["groups"] and not done["copies"]


def words(done: Mapping[str, Any]) -> str:
    """How it ended, for a person."""
    node, moved, left = done["node"], done["moved"], done["groups"]
    if not done["how"]:
        return f"{node} takes clients again"
    text = f"{node} is drained: others serve its {moved} groups of sessions"
    if is_safe(done):
        return f"{text}; stop it now"
    if left:
        text += (
            f"; {left} with {done['sessions']} sessions could not be handed over, of which"
            f" {done['alone']} sessions have no copy on another node"
        )
    if done["copies"]:
        text += (
            f"; its copies of {done['copies']} groups could not be made elsewhere: they have one"
            " less when it goes"
        )
    return text

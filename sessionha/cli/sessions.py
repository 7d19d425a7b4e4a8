"""Shows a person where somebody is logged in, and what a log-out achieved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sessionha.cli import asking

TIMEOUT: Final = 30.0
"""Seconds: every node of the cluster is asked, and sessions are ended on them."""

NO_SUCH_SESSION: Final = (
    "no session was ended: among the subject's sessions that could be asked none has this ID;"
    " `sessionha sessions SUBJECT` lists them"
)

_UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def ask(
    url: str, bearer: str, subject: str, *, one: str | None = None, ends: bool = False
) -> dict[str, Any]:
    """The subject's sessions; with `ends` they are ended, or the session `one` is.

    Raises:
        NoAnswer: see `asking.ask`.
    """
    path = f"/v1/subjects/{quote(subject, safe='')}"
    if not ends:
        return asking.ask(url, path, bearer, has="sessions", timeout=TIMEOUT)
    query = "" if one is None else "?" + urlencode({"session": one})
    return asking.ask(url, path + query, bearer, has="ended", method="DELETE", timeout=TIMEOUT)


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print the sessions, and what is missing."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("ID", "began", "last used", "virtual server", "node"):
        table.add_column(heading, overflow="fold")
    for each in found["sessions"]:
        row = (
            each["id"], ago(each["age"]), ago(each["unused"]), each["virtual_server"], each["node"],
        )  # fmt: skip
        table.add_row(*(Text(str(cell)) for cell in row))  # plain: a name is no markup
    if found["sessions"]:
        console.print(table)
    else:
        console.print("no session", highlight=False)
    if found["more"]:
        console.print("there are more sessions than are listed", highlight=False)
    _show_missing(found, "could not be asked and may hold more sessions", console)


def show_end(done: Mapping[str, Any], console: Console) -> None:
    """Print what a log-out achieved."""
    count = done["ended"]
    console.print(f"{count} session{'' if count == 1 else 's'} ended", highlight=False)
    _show_missing(done, "could not be told; they learn it when they are back", console)


def _show_missing(answer: Mapping[str, Any], why: str, console: Console) -> None:
    if names := answer["unreachable"]:
        line = f"{', '.join(map(str, names))} {why}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def ago(seconds: float) -> str:
    """How long ago, in the largest unit that fits."""
    for unit, size in _UNITS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return "now"

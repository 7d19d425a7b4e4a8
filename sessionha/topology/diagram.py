"""Writes the automaton's table of transitions into a page: `python -m sessionha.topology.diagram
docs/architecture.md` replaces what stands there between two marks."""

from __future__ import annotations

import sys
from pathlib import Path

from sessionha.topology.states import HEARS, MEANS, MOVES, State

BEGIN = "<!-- from sessionha/topology/states.py, by `make docs` -->"
END = "<!-- until here -->"


def mermaid() -> str:
    """The transitions as a diagram; what leads from a state to itself is left out."""
    lines = ["```mermaid", "stateDiagram-v2", "  [*] --> connecting", "  [*] --> reconnecting"]
    labels: dict[tuple[State, State], list[str]] = {}
    for (state, event), move in MOVES.items():
        if move.to is not state:
            labels.setdefault((state, move.to), []).append(event.value)
    lines += [f"  {one} --> {other}: {' / '.join(why)}" for (one, other), why in labels.items()]
    return "\n".join([*lines, f"  {State.STOPPED} --> [*]", "```"])


def table() -> str:
    """What each state means, and which messages it listens to."""
    lines = ["| state | means | listens to |", "|---|---|---|"]
    for state, meaning in MEANS.items():
        heard = ", ".join(f"`{message.__name__}`" for message in HEARS[state])
        lines.append(f"| *{state}* | {meaning} | {heard or 'nothing'} |")
    return "\n".join(lines)


def written(page: str) -> str:
    """The page with both between its marks.

    Raises:
        ValueError: it has no such marks.
    """
    before, mark, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError(f"the page has no part between {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{mermaid()}\n\n{table()}\n{END}{after}"


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(written(path.read_text("utf-8")), "utf-8")

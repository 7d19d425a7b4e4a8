"""What the router counts; plain numbers, read by whoever shows them."""

from __future__ import annotations

from collections import Counter
from typing import Final

BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper ends, in seconds, of the ranges of response times; those that Prometheus' clients use."""


class Counts:
    """Of one process of the router, since its start."""

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        """By the server that answered (empty: the router itself) and the hundred of the status."""
        self.refused: Counter[str] = Counter()
        """Requests that were not understood, by what was wrong (`framing.Reason`, `slow`, …)."""
        self.repeats: Counter[str] = Counter()
        """Requests sent once more, by why."""
        self.denied = 0
        """Repeats that the budget did not allow."""
        self.full = 0
        """Requests that found no room at their server in time."""
        self.gone = 0
        """Requests whose client did not wait for the answer."""
        self.sockets = 0
        """Websockets that were connected."""
        self.took: Counter[int] = Counter()
        """Answers by the index in BOUNDS of the first that is not below; beyond: slower."""
        self.seconds = 0.0
        """The sum of their times."""

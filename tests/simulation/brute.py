"""A checker that knows nothing but what a history means: it tries every order of commits.

For a handful of requests only. A history is good when some sequence of the changes that may have
happened explains everything that was seen and answered.
"""

from __future__ import annotations

from itertools import combinations, permutations

from sessionha.identity import Position
from tests.simulation.events import History, Request


def explains(history: History) -> bool:
    """Whether a sequence of commits, and a place in it for every position, explains the history of
    one session: answers, floors and, where reads are confirmed, real time."""
    requests = history.requests
    for request in requests:
        if _below(request):
            return False
        if history.strict and _late(request, requests):
            return False
    changes = [request for request in requests if request.changes and request.outcome != "fail"]
    sure = [request for request in changes if request.outcome == "ok"]
    perhaps = [request for request in changes if request.outcome != "ok"]
    return any(
        _fits(history, order)
        for count in range(len(perhaps) + 1)
        for some in combinations(perhaps, count)
        for order in permutations([*sure, *some])
    )


def _below(request: Request) -> bool:
    """An answer is older than the cookie, or than what the same request had read."""
    steps = [p for p in (request.floor, request.read, request.position) if p is not None]
    return steps != sorted(steps)


def _late(request: Request, requests: list[Request]) -> bool:
    """Something was answered before the request began that it does not have."""
    for other in requests:
        for place, position in ((other.read_at, other.read), (other.ended, other.position)):
            if position is None or request.read is None or not 0 <= place < request.began:
                continue
            if request.read < position:
                return True
    return False


def _fits(history: History, order: tuple[Request, ...]) -> bool:
    """Whether every position is the state after some number of these commits."""
    states = [frozenset[str]()]
    ended: list[frozenset[bytes]] = [frozenset()]
    begun: list[frozenset[bytes]] = [frozenset()]
    for request in order:
        if request.ends and request.ends in ended[-1]:
            return False  # nobody can end a session twice
        states.append(states[-1] - {request.removes} | ({request.put} - {""}))
        ended.append(ended[-1] | ({request.ends} - {b""}))
        begun.append(begun[-1] | ({request.begins} - {b""}))
    renewed = {request.begins for request in history.requests if request.begins}
    positions = sorted(
        {r.read for r in history.requests if r.read}
        | {r.position for r in history.requests if r.outcome == "ok" and r.position}
    )

    def possible(position: Position, count: int) -> bool:
        applied = order[:count]
        for request in history.requests:
            answered = request.outcome == "ok" and request.position == position
            if answered and request.changes and request not in applied:
                return False
            if request.read != position or request.seen is None:
                continue
            if frozenset(request.seen) != states[count] or request.key in ended[count]:
                return False
            if request.key in renewed and request.key not in begun[count]:
                return False
            if request in applied:
                return False  # it reads before it commits
            if history.strict and _missed(request, applied, history):
                return False
        return True

    def place(index: int, count: int) -> bool:
        if index == len(positions):
            return True
        return any(
            possible(positions[index], later) and place(index + 1, later)
            for later in range(count, len(order) + 1)
        )

    return place(0, 0)


def _missed(read: Request, applied: tuple[Request, ...], history: History) -> bool:
    """A change was answered before the read began, and is not there."""
    return any(
        request.outcome == "ok"
        and request.changes
        and request.ended < read.began
        and request not in applied
        for request in history.requests
    )

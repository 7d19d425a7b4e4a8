"""Microseconds that each kind of session adds to a request, in one process and without sockets.

The steadiest figures: the one to run before and after a change. `sessionha alone` has no peers,
`sessionha` has a backup node in another process.
"""

from __future__ import annotations

import json
import pstats
import subprocess
from dataclasses import dataclass, field
from typing import Any

from benchmarks import application, figures
from benchmarks.processes import NotStarted, Processes
from benchmarks.served import settings

ALONE = "sessionha alone"
VARIANTS = (application.BARE, application.COOKIE, application.REDIS, ALONE, application.SESSIONHA)
ROUTES = ("read", "write")
AT_ONCE = (1, 16)
"""Requests in flight: one shows the latency of a request, sixteen what batching saves."""

REQUESTS = 2000
"""In one run of one variant: 80 ms to 1 s, long beside a timer's tick and a scheduler's slice."""


@dataclass
class Run:
    """What the rounds found: by (variant, route, requests in flight)."""

    variants: tuple[str, ...]
    rounds: int
    clock: dict[tuple[str, str, int], list[float]] = field(default_factory=dict)
    cpu: dict[tuple[str, str, int], list[float]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    others: float = 0.0
    """Cores that other work kept busy."""


class Driver:
    """A driver process of one variant."""

    def __init__(self, variant: str, processes: Processes) -> None:
        kind = application.SESSIONHA if variant == ALONE else variant
        environment = settings(kind, processes, alone=variant == ALONE)
        self._processes = processes
        self._process = processes.python(
            "benchmarks.driver", [kind], processes.cores.server, environment, pipes=True
        )

    def run(self, **order: Any) -> dict[str, Any]:
        """Carry out one order. NotStarted: the process is gone."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise self._gone() from None
        line = process.stdout.readline()
        if not line:
            raise self._gone()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _gone(self) -> NotStarted:
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
        return NotStarted(self._processes.said(self._process))


def measure(variants: tuple[str, ...], rounds: int) -> Run:
    """Start every variant, warm it up, then run the rounds."""
    run = Run(variants, rounds)
    with Processes() as processes:
        drivers = {variant: Driver(variant, processes) for variant in variants}
        for driver in drivers.values():
            for route in ROUTES:
                driver.run(route=route, requests=500, sessions=4)
        for number in range(rounds):
            start = number % len(variants)
            for variant in variants[start:] + variants[:start]:
                for route in ROUTES:
                    for at_once in AT_ONCE:
                        _one(run, drivers[variant], variant, route, at_once)
    run.others = processes.others
    return run


def _one(run: Run, driver: Driver, variant: str, route: str, at_once: int) -> None:
    answer = driver.run(route=route, requests=REQUESTS, sessions=at_once)
    key = (variant, route, at_once)
    run.clock.setdefault(key, []).append(answer["clock_us"])
    run.cpu.setdefault(key, []).append(answer["cpu_us"])
    if answer["wrong"]:
        run.errors.append(f"{variant} {route}: {answer['wrong']} sessions with a wrong counter")


def report(run: Run) -> dict[str, Any]:
    """The JSON of a run."""
    return {
        "inprocess": {
            variant: {
                f"{route}-{at_once}": {
                    "clock_us": figures.spread(run.clock[variant, route, at_once]).rounded(),
                    "cpu_us": figures.spread(run.cpu[variant, route, at_once]).rounded(),
                }
                for route in ROUTES
                for at_once in AT_ONCE
            }
            for variant in run.variants
        },
        "valid": not run.errors,
        "others_cores": figures.significant(run.others, 2),
        "rounds": run.rounds,
        "requests": REQUESTS,
        "state_bytes": application.state_bytes(),
        "machine": figures.machine(),
        "errors": run.errors,
    }


def text(run: Run) -> str:
    """One table for each number of requests in flight."""
    parts = []
    for at_once in AT_ONCE:
        header = [
            f"{at_once} in flight, us/request",
            *(f"{route} {what}" for route in ROUTES for what in ("clock", "over bare", "cpu")),
        ]
        rows = [[variant, *_cells(run, variant, at_once)] for variant in run.variants]
        parts.append(figures.table(header, rows))
    parts += [f"INVALID: {error}" for error in run.errors]
    return "\n\n".join(parts) + figures.disturbed(run.others)


def _cells(run: Run, variant: str, at_once: int) -> list[str]:
    cells = []
    for route in ROUTES:
        clock = figures.spread(run.clock[variant, route, at_once])
        bare = run.clock.get((application.BARE, route, at_once))
        over = clock.median - figures.spread(bare).median if bare else None
        cells += [
            str(clock),
            f"{over:+.1f}" if over is not None else "–",
            figures.short(figures.spread(run.cpu[variant, route, at_once]).median),
        ]
    return cells


def profile(variant: str, route: str, lines: int = 45) -> None:
    """Print where the time of a variant's requests goes, own time first."""
    with Processes() as processes:
        driver = Driver(variant, processes)
        driver.run(route=route, requests=500, sessions=4)
        file = str(processes.directory / "profile")
        driver.run(route=route, requests=REQUESTS * 5, sessions=16, profile=file)
        stats = pstats.Stats(file)
    stats.strip_dirs().sort_stats("tottime").print_stats(lines)


def main(variants: tuple[str, ...], rounds: int, *, quiet: bool, save: bool) -> int:
    """Measure, print, and say by the exit code whether the figures are valid."""
    run = measure(variants, rounds)
    figures.publish("inprocess", report(run), text(run), quiet=quiet, save=save)
    return 1 if run.errors else 0

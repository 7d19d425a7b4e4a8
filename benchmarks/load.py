"""Requests per second of the application with each kind of session, under the same load of wrk."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import application, figures
from benchmarks.processes import Processes, Server, has_program
from benchmarks.served import Client, serve

ROUTES = {"read": "GET", "write": "POST"}

GOALS = (
    ("read", application.REDIS, 3.5),
    ("write", application.REDIS, 3.0),
    ("read", application.COOKIE, 1.0),
    ("write", application.COOKIE, 1.0),
)
"""What sessionha promises: at least so many times the requests per second of that variant."""


@dataclass(frozen=True)
class Plan:
    """How much to measure."""

    variants: tuple[str, ...] = application.VARIANTS
    rounds: int = 5
    seconds: int = 3
    connections: int = 16
    """As many threads of wrk and as many sessions: one each, so that no session has two writers."""
    state: str = application.SHOP
    """What the sessions hold: one of `application.STATES`."""


class Sample(NamedTuple):
    """One run of wrk."""

    rate: float
    """Answers per second."""
    p50: int
    p99: int
    """Microseconds, with all connections busy."""
    cpu: float
    """Microseconds of the server's CPU for one answer; other work on the machine hardly shows."""


class Thread(NamedTuple):
    """What one thread of wrk, and so one session, saw."""

    answered: int
    wrong: int
    took: float
    cookies: str


@dataclass
class Run:
    """What the rounds found so far."""

    plan: Plan
    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    others: float = 0.0
    """Cores that other work kept busy."""


def measure(plan: Plan) -> Run:
    """Serve every variant, then run the rounds.

    Raises:
        NotStarted: a server did not come up.
    """
    run = Run(plan)
    with Processes() as processes:
        served = {variant: serve(variant, processes, plan.state) for variant in plan.variants}
        for variant, server in served.items():
            for route in ROUTES:
                run_one(variant, server, route, run, processes, warm_up=True)
        for number in range(plan.rounds):
            for variant in rotated(plan.variants, number):
                for route in ROUTES:
                    run_one(variant, served[variant], route, run, processes)
    run.others = processes.others
    return run


def report(run: Run) -> dict[str, Any]:
    """The JSON of a run, ratios first."""
    rates = {
        variant: {
            route: figures.spread(sample.rate for sample in run.samples[variant, route]).rounded()
            for route in ROUTES
        }
        for variant in run.plan.variants
    }
    return {
        "ratios": _medians(run, application.BARE),
        "valid": not run.errors,
        "goals": _goals(run),
        "rates": rates,
        "latency_us": {
            variant: {route: _latency(run.samples[variant, route]) for route in ROUTES}
            for variant in run.plan.variants
        },
        "server_cpu_us": {
            variant: {route: _cpu(run, variant, route).rounded() for route in ROUTES}
            for variant in run.plan.variants
        },
        "others_cores": figures.significant(run.others, 2),
        "rounds": run.plan.rounds,
        "seconds": run.plan.seconds,
        "connections": run.plan.connections,
        "state_bytes": application.state_bytes(run.plan.state),
        "machine": figures.machine(),
        "errors": run.errors,
    }


def text(run: Run) -> str:
    """The tables of a run and what became of its goals, for people."""
    verdicts = [
        f"\nsessionha {goal['route']}: {goal['found']:.2f} times {goal['over']} "
        f"(goal {goal['least']}): {'met' if goal['met'] else 'MISSED'}"
        for goal in _goals(run)
    ]
    return "\n".join([tables(run), *verdicts, *remarks(run)])


def remarks(run: Run) -> list[str]:
    """What a reader must know before the figures are compared."""
    return [figures.disturbed(run.others), *(f"\nINVALID: {error}" for error in run.errors)]


def tables(run: Run) -> str:
    """One table for each route."""
    lines = [
        f"{run.plan.rounds} rounds of {run.plan.seconds} s, {run.plan.connections} connections, "
        f"{application.state_bytes(run.plan.state)} bytes of state; median (least–most)",
    ]
    for route in ROUTES:
        rows = [[variant, *_cells(run, variant, route)] for variant in run.plan.variants]
        lines += ["", figures.table([route, *_COLUMNS], rows)]
    return "\n".join(lines)


def missing_programs() -> list[str]:
    """Programs that the comparison needs and this machine lacks."""
    return [name for name in ("wrk", "redis-server") if not has_program(name)]


_COLUMNS = ("requests/s", "of bare", "CPU us", "p50 us", "p99 us")


def _cells(run: Run, variant: str, route: str) -> list[str]:
    samples = run.samples[variant, route]
    latency = _latency(samples)
    return [
        str(figures.spread(sample.rate for sample in samples)),
        str(ratio(run, variant, application.BARE, route) or "–"),
        figures.short(_cpu(run, variant, route).median),
        figures.short(latency["p50"]),
        figures.short(latency["p99"]),
    ]


def _cpu(run: Run, variant: str, route: str) -> figures.Spread:
    return figures.spread(sample.cpu for sample in run.samples[variant, route])


def _latency(samples: Sequence[Sample]) -> dict[str, float]:
    return {
        "p50": figures.spread(sample.p50 for sample in samples).median,
        "p99": figures.spread(sample.p99 for sample in samples).median,
    }


def ratio(run: Run, variant: str, base: str, route: str) -> figures.Spread | None:
    """Of the rates, round by round: what slows a whole round does not change its ratio."""
    if (variant, route) not in run.samples or (base, route) not in run.samples:
        return None
    pairs = zip(run.samples[variant, route], run.samples[base, route], strict=True)
    return figures.spread(mine.rate / its.rate for mine, its in pairs)


def _medians(run: Run, base: str) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for variant in run.plan.variants:
        for route in ROUTES:
            times = ratio(run, variant, base, route)
            if times is not None:
                found.setdefault(variant, {})[route] = figures.significant(times.median)
    return found


def _goals(run: Run) -> list[dict[str, Any]]:
    found = []
    for route, over, least in GOALS:
        times = ratio(run, application.SESSIONHA, over, route)
        if times is not None:
            found.append(
                {
                    "route": route,
                    "over": over,
                    "least": least,
                    "found": figures.significant(times.median),
                    "met": times.median >= least,
                }
            )
    return found


def rotated(variants: tuple[str, ...], number: int) -> tuple[str, ...]:
    """Another variant begins each round, so that none profits from its place."""
    start = number % len(variants)
    return variants[start:] + variants[:start]


def run_one(
    variant: str,
    server: Server,
    route: str,
    run: Run,
    processes: Processes,
    *,
    warm_up: bool = False,
) -> None:
    """One run of wrk on fresh sessions, then the check of what they hold."""
    plan = run.plan
    clients = [Client(server.port) for _ in range(plan.connections)]
    before = [client.login() for client in clients]
    seconds = 1 if warm_up else plan.seconds
    cpu = server.cpu()
    output = _wrk(server.port, route, seconds, [client.header() for client in clients], processes)
    sample, threads, broken = parse(output, server.cpu() - cpu)
    writes = [thread.answered if route == "write" else 0 for thread in threads]
    counters = []
    for client, thread, start in zip(clients, threads, before, strict=True):
        client.take(thread.cookies)
        counters.append(client.counter() - start)
    if variant == application.BARE:  # without sessions all clients share one state
        writes, counters = [sum(writes)], counters[:1]
    pairs = list(zip(writes, counters, strict=True))
    run.errors += mistakes(f"{variant} {route}", threads, broken, pairs)
    for client in clients:
        client.close()
    if not warm_up:
        run.samples.setdefault((variant, route), []).append(sample)


def mistakes(
    label: str, threads: Sequence[Thread], broken: int, counters: Sequence[tuple[int, int]]
) -> list[str]:
    """Why a run does not count; `counters` pairs the writes of a session with what it says."""
    found = []
    wrong = sum(thread.wrong for thread in threads) + broken
    if wrong:
        found.append(f"{label}: {wrong} answers were not 200")
    return found + [
        f"{label}: a counter of {counter} after {writes} writes"
        for writes, counter in counters
        if counter != writes
    ]


def _wrk(port: int, route: str, seconds: int, cookies: Sequence[str], processes: Processes) -> str:
    """Run wrk on its core; it ends itself a little before its own limit, so nothing is cut."""
    count = str(len(cookies))
    script = str(Path(__file__).with_name("load.lua"))
    command = [
        *("wrk", "-t", count, "-c", count, "-d", str(seconds), "-s", script),
        *(f"http://127.0.0.1:{port}", "--", str(seconds - 0.2), ROUTES[route], f"/{route}"),
        *cookies,
    ]
    process = processes.start("wrk", command, processes.cores.load, pipes=True)
    output, _ = process.communicate(timeout=seconds + 30)
    return output.decode()


def parse(output: str, cpu: float) -> tuple[Sample, list[Thread], int]:
    """The sample, the threads, and how many connections broke; `cpu`: seconds of the server."""
    threads: list[Thread] = []
    p50 = p99 = broken = 0
    for line in output.splitlines():
        kind, *words = line.split(" ", 4)
        if kind == "load":
            p50, p99, broken = int(words[0]), int(words[1]), int(words[2])
        elif kind == "thread":
            threads.append(Thread(int(words[0]), int(words[1]), float(words[2]), words[3]))
    if not threads:
        raise RuntimeError(f"wrk printed no result:\n{output}")
    rate = sum(thread.answered / thread.took for thread in threads if thread.answered)
    if not math.isfinite(rate) or rate <= 0:
        raise RuntimeError(f"wrk had no answer:\n{output}")
    answered = sum(thread.answered for thread in threads)
    return Sample(rate, p50, p99, cpu / answered * 1e6), threads, broken


def main(plan: Plan, *, quiet: bool, save: bool) -> int:
    """Measure, print, and say by the exit code whether the figures are valid."""
    missing = missing_programs()
    if missing:
        print(f"install {' and '.join(missing)} first", file=sys.stderr)
        return 2
    run = measure(plan)
    figures.publish("load", report(run), text(run), quiet=quiet, save=save)
    return 1 if run.errors else 0

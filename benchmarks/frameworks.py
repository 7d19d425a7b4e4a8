"""Requests per second of Flask and Django with each kind of session, under gunicorn's threads."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import application, figures
from benchmarks.application import BARE, COOKIE, REDIS, SESSIONHA
from benchmarks.load import ROUTES, Plan, Run, missing_programs, ratio, rotated, run_one
from benchmarks.processes import READY_WITHIN, NotStarted, Processes, Server, free_port
from benchmarks.served import await_replication, node_settings, settings

FRAMEWORKS = ("django", "flask")

THREADS = 4
"""Of the one worker: more would only wait for the interpreter."""

GOALS = (
    ("read", BARE, 0.85),
    ("write", BARE, 0.7),
    ("read", REDIS, 1.3),
    ("write", REDIS, 1.3),
)
"""What sessionha promises: at least so many times the requests per second of that variant."""

NAMES = {
    "flask": {COOKIE: "Flask's cookie", REDIS: "Flask-Session"},
    "django": {COOKIE: "signed_cookies", REDIS: "cache, django-redis"},
}


def measure(framework: str, plan: Plan) -> Run:
    """Serve every variant, then run the rounds.

    Raises:
        NotStarted: a server did not come up.
    """
    run = Run(plan)
    with Processes() as processes:
        served = {variant: _serve(framework, variant, processes) for variant in plan.variants}
        for variant, server in served.items():
            for route in ROUTES:
                run_one(variant, server, route, run, processes, warm_up=True)
        for number in range(plan.rounds):
            for variant in rotated(plan.variants, number):
                for route in ROUTES:
                    run_one(variant, served[variant], route, run, processes)
    run.others = processes.others
    return run


def _serve(framework: str, variant: str, processes: Processes) -> Server:
    """One worker on the server's core; with sessionha a second node beside it has the copies."""
    if variant != SESSIONHA:
        return _gunicorn(framework, settings(variant, processes), processes, processes.cores.server)
    own = {**settings(BARE, processes), "BENCHMARK_VARIANT": SESSIONHA}
    nodes = node_settings(processes)
    _gunicorn(framework, {**own, **nodes["n2"]}, processes, processes.cores.helper)
    server = _gunicorn(framework, {**own, **nodes["n1"]}, processes, processes.cores.server)
    await_replication(server.port)
    return server


def _gunicorn(
    framework: str, environment: dict[str, str], processes: Processes, core: int
) -> Server:
    port = free_port()
    arguments = [
        *("--config", "python:sessionha.gunicorn", "--no-control-socket", "--workers", "1"),
        *("--worker-class", "gthread", "--threads", str(THREADS), "--keep-alive", "30"),
        *("--bind", f"127.0.0.1:{port}", "--log-level", "warning"),
        f"benchmarks.framework_applications:{framework}()",
    ]
    master = processes.python("gunicorn", arguments, core, environment)
    processes.await_port(master, port)
    return Server(_worker(master.pid), port)


def _worker(master: int) -> int:
    """The process that serves: its master's only child."""
    deadline = time.monotonic() + READY_WITHIN
    children = Path(f"/proc/{master}/task/{master}/children")
    while time.monotonic() < deadline:
        if found := children.read_text().split():
            return int(found[0])
        time.sleep(0.02)
    raise NotStarted("gunicorn has no worker")


def report(runs: dict[str, Run]) -> dict[str, Any]:
    """The JSON of the runs, ratios first."""
    return {
        "ratios": {
            name: {
                variant: {
                    route: figures.significant(found.median)
                    for route in ROUTES
                    if (found := ratio(run, variant, BARE, route)) is not None
                }
                for variant in run.plan.variants
            }
            for name, run in runs.items()
        },
        "valid": not any(run.errors for run in runs.values()),
        "goals": [goal for name, run in runs.items() for goal in _goals(name, run)],
        "rates": {
            name: {
                variant: {
                    route: figures.spread(s.rate for s in run.samples[variant, route]).rounded()
                    for route in ROUTES
                }
                for variant in run.plan.variants
            }
            for name, run in runs.items()
        },
        "server_cpu_us": {
            name: {
                variant: {
                    route: figures.spread(s.cpu for s in run.samples[variant, route]).rounded()
                    for route in ROUTES
                }
                for variant in run.plan.variants
            }
            for name, run in runs.items()
        },
        "others_cores": figures.significant(max(run.others for run in runs.values()), 2),
        "state_bytes": application.state_bytes(),
        "machine": figures.machine(),
        "errors": [error for run in runs.values() for error in run.errors],
    }


def text(runs: dict[str, Run]) -> str:
    """One table for each framework and route, and what became of the goals."""
    lines = []
    for name, run in runs.items():
        for route in ROUTES:
            rows = [
                [NAMES[name].get(variant, variant), *_cells(run, variant, route)]
                for variant in run.plan.variants
            ]
            heading = [f"{name}, {route}", "requests/s", "of bare", "CPU us"]
            lines += [figures.table(heading, rows), ""]
        for goal in _goals(name, run):
            verdict = "met" if goal["met"] else "MISSED"
            over = NAMES[name].get(goal["over"], goal["over"])
            lines.append(
                f"sessionha {goal['route']}: {goal['found']:.2f} times {over}"
                f" (goal {goal['least']}): {verdict}"
            )
        lines += [figures.disturbed(run.others), *(f"INVALID: {e}" for e in run.errors), ""]
    return "\n".join(lines)


def _cells(run: Run, variant: str, route: str) -> list[str]:
    samples = run.samples[variant, route]
    return [
        str(figures.spread(sample.rate for sample in samples)),
        str(ratio(run, variant, BARE, route) or "–"),
        figures.short(figures.spread(sample.cpu for sample in samples).median),
    ]


def _goals(name: str, run: Run) -> list[dict[str, Any]]:
    found = []
    for route, over, least in GOALS:
        times = ratio(run, SESSIONHA, over, route)
        if times is not None:
            met = times.median >= least
            told = figures.significant(times.median)
            found.append(
                {"framework": name, "route": route, "over": over, "least": least, "found": told,
                 "met": met}
            )  # fmt: skip
    return found


def main(frameworks: tuple[str, ...], plan: Plan, *, quiet: bool, save: bool) -> int:
    """Measure, print, and say by the exit code whether the figures are valid."""
    missing = missing_programs()
    if missing:
        print(f"install {' and '.join(missing)} first", file=sys.stderr)
        return 2
    runs = {name: measure(name, plan) for name in frameworks}
    figures.publish("frameworks", report(runs), text(runs), quiet=quiet, save=save)
    return 1 if any(run.errors for run in runs.values()) else 0

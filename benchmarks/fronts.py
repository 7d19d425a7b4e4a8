"""What a front costs: the router and real load balancers before one server, beside none."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any, Final

from benchmarks import application, figures, load
from benchmarks.processes import Processes, Server, free_port
from benchmarks.served import serve
from demo_app.fronts import FRONTS
from sessionha.balancers.document import Cookie, Document, Health
from sessionha.balancers.document import Server as Described
from sessionha.balancers.installing import write
from sessionha.balancers.kinds import KINDS

DIRECT, ROUTER = "direct", "router"

GOAL: Final = 0.25
"""Of the requests per second of the server alone, the router's least."""

ROUTE: Final = "read"


def router(processes: Processes, server: Server) -> Server:
    """The router, one worker."""
    port = free_port()
    arguments = [str(port), str(server.port)]
    process = processes.python("benchmarks.routed", arguments, processes.cores.helper)
    processes.await_port(process, port)
    return Server(process.pid, port)


class Tree(Server):
    """A front of several processes."""

    def cpu(self) -> float:
        """Seconds of CPU that they have used together."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return sum(Server(pid, 0).cpu() for pid in (self.pid, *map(int, children)))


def real(kind: str, processes: Processes, server: Server) -> Server:
    """A load balancer with the configuration that `sessionha export` makes."""
    port = free_port()
    place = processes.directory / kind
    front = FRONTS[kind](place, port, free_port())
    front.prepare()
    write(front.options.place, KINDS[kind].files(_document(server), _KEYS, front.options))
    process = processes.start(kind, front.command, processes.cores.helper)
    processes.await_port(process, port)
    return Tree(process.pid, port)


_KEYS: Final = {"benchmark": bytes(range(32))}


def _document(server: Server) -> Document:
    url = f"http://127.0.0.1:{server.port}"
    return Document(
        cluster="benchmark",
        view=1,
        cookie=Cookie(name="hsr"),
        health=Health(path=""),
        servers=(Described(name="n1", node="n1", state="up", url=url),),
    )


VARIANTS: Final = (DIRECT, ROUTER, *FRONTS)


def measure(plan: load.Plan) -> load.Run:
    """Serve the application once, put everything in front of it, and run the rounds.

    Raises:
        NotStarted: something did not come up.
    """
    run = load.Run(plan)
    with Processes() as processes:
        server = serve(application.BARE, processes, plan.state)
        served = {variant: _front(variant, processes, server) for variant in plan.variants}
        for variant, its in served.items():
            load.run_one(variant, its, ROUTE, run, processes, warm_up=True)
        for number in range(plan.rounds):
            for variant in load.rotated(plan.variants, number):
                load.run_one(variant, served[variant], ROUTE, run, processes)
    run.others = processes.others
    return run


def _front(variant: str, processes: Processes, server: Server) -> Server:
    if variant == DIRECT:
        return server
    if variant == ROUTER:
        return router(processes, server)
    return real(variant, processes, server)


def report(run: load.Run) -> dict[str, Any]:
    """The JSON of a run, ratios first."""
    found = {variant: _found(run, variant) for variant in run.plan.variants}
    ratio = load.ratio(run, ROUTER, DIRECT, ROUTE)
    return {
        "of_direct": {variant: row["of_direct"] for variant, row in found.items()},
        "goal": {"router": GOAL, "met": ratio is None or ratio.median >= GOAL},
        "valid": not run.errors,
        "fronts": found,
        "others_cores": figures.significant(run.others, 2),
        "rounds": run.plan.rounds,
        "seconds": run.plan.seconds,
        "connections": run.plan.connections,
        "machine": figures.machine(),
        "errors": run.errors,
    }


def _found(run: load.Run, variant: str) -> dict[str, Any]:
    samples, base = run.samples[variant, ROUTE], run.samples[DIRECT, ROUTE]
    ratio = load.ratio(run, variant, DIRECT, ROUTE)
    assert ratio is not None, "direct is in every round"
    return {
        "of_direct": figures.significant(ratio.median),
        "rate": figures.spread(sample.rate for sample in samples).rounded(),
        "cpu_us": figures.spread(sample.cpu for sample in samples).rounded(),
        **{
            f"added_{name}_us": figures.spread(
                getattr(its, name) - getattr(bare, name)
                for its, bare in zip(samples, base, strict=True)
            ).rounded()
            for name in ("p50", "p99")
        },
    }


def text(run: load.Run) -> str:
    """The table of a run, for people."""
    found = report(run)
    rows = [
        [
            variant,
            figures.short(row["rate"]["median"]),
            figures.short(row["of_direct"]),
            figures.short(row["cpu_us"]["median"]),
            figures.short(row["added_p50_us"]["median"]),
            figures.short(row["added_p99_us"]["median"]),
        ]
        for variant, row in found["fronts"].items()
    ]
    columns = ["", "requests/s", "of direct", "CPU us", "p50 us added", "p99 us added"]
    verdict = "met" if found["goal"]["met"] else "MISSED"
    missing = [f"\n{kind}: not installed" for kind in VARIANTS if kind not in run.plan.variants]
    return "\n".join(
        [
            f"{run.plan.rounds} rounds of {run.plan.seconds} s, {run.plan.connections} connections,"
            " one server, the front on one core",
            "",
            figures.table(columns, rows),
            f"\nrouter: at least {GOAL} of direct: {verdict}",
            *missing,
            *load.remarks(run),
        ]
    )


def installed() -> tuple[str, ...]:
    """What can be measured on this machine."""
    missing = {kind for kind in FRONTS if not _is_here(kind)}
    return tuple(variant for variant in VARIANTS if variant not in missing)


def _is_here(kind: str) -> bool:
    program = FRONTS[kind](Path(), 0, 0).command[0]
    return shutil.which(program) is not None


def main(plan: load.Plan, *, quiet: bool, save: bool) -> int:
    """Measure, print, and say by the exit code whether the figures are valid."""
    if shutil.which("wrk") is None:
        print("install wrk first", file=sys.stderr)
        return 2
    run = measure(plan)
    figures.publish("router", report(run), text(run), quiet=quiet, save=save)
    return 1 if run.errors else 0

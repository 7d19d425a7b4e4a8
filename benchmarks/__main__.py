"""Measure sessionha beside what it replaces.

`load` (the default) compares kinds of sessions under wrk, `elements` with a session of 64 KB of
which each request changes one small element; `inprocess` gives microseconds per
request without sockets; `profile read|write` shows where they go; `store` and `stream` measure the
store and the stream between two nodes alone; `detection` how soon five nodes know that one died;
`healing` how long three nodes take to have all copies again after one died, and what that costs;
`router` what the router and real load balancers in front of a server cost.
`django flask` (or one of them) compare the kinds of sessions of those frameworks under wrk.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from benchmarks import (
    application,
    detection,
    elements,
    frameworks,
    fronts,
    healing,
    inprocess,
    load,
    store,
    stream,
)
from benchmarks.processes import NotStarted
from benchmarks.served import WrongAnswer

BENCHMARKS = (
    *frameworks.FRAMEWORKS,
    "load",
    "elements",
    "inprocess",
    "profile",
    "store",
    "stream",
    "detection",
    "healing",
    "router",
)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("benchmark", nargs="?", choices=BENCHMARKS, default="load")
    routes = ("read", "write", *frameworks.FRAMEWORKS)
    parser.add_argument("route", nargs="?", choices=routes, default="write")
    parser.add_argument("--json", action="store_true", help="print the JSON alone")
    parser.add_argument("--save", action="store_true", help="keep the JSON in benchmarks/results")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, all variants in each")
    parser.add_argument("--seconds", type=int, default=3, help="load: seconds of one run of wrk")
    parser.add_argument("--connections", type=int, default=16, help="load: each with a session")
    parser.add_argument(
        "--variants", metavar="A,B", help=f"of {', '.join(inprocess.VARIANTS)} (default: all)"
    )
    parser.add_argument(
        "--namespaces", action="store_true", help="detection: each node on a host of its own"
    )
    parser.add_argument(
        "--consistency",
        choices=("quorum", "available"),
        default="quorum",
        help="detection: how views are agreed",
    )
    parser.add_argument(
        "--groups", type=int, default=10_000, help="healing: clients with a session of 4 KB"
    )
    found = parser.parse_args(words)
    found.variants = _variants(parser, found)
    if min(found.rounds, found.seconds, found.connections, found.groups) < 1:
        parser.error("rounds, seconds, connections and groups must be at least 1")
    return found


def _variants(parser: argparse.ArgumentParser, found: argparse.Namespace) -> tuple[str, ...]:
    wrk = found.benchmark == "load" or found.benchmark in frameworks.FRAMEWORKS
    known: tuple[str, ...] = application.VARIANTS if wrk else inprocess.VARIANTS
    default: tuple[str, ...] = (application.SESSIONHA,) if found.benchmark == "profile" else known
    if found.benchmark == "router":
        known, default = fronts.VARIANTS, fronts.installed()
    chosen = tuple(found.variants.split(",")) if found.variants else default
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        parser.error(f"{found.benchmark} has no variants {unknown}; it has {list(known)}")
    if found.benchmark == "router" and fronts.DIRECT not in chosen:
        parser.error("router compares with the variant `direct`: name it as well")
    return chosen


def main(words: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; the exit code."""
    signal.signal(signal.SIGTERM, _leave)
    found = arguments(words)
    try:
        return _run(found)
    except (NotStarted, WrongAnswer) as error:
        print(f"INVALID: {error}", file=sys.stderr)
        return 1


def _run(found: argparse.Namespace) -> int:
    if found.benchmark == "profile":
        for variant in found.variants:
            inprocess.profile(variant, found.route)
        return 0
    if found.benchmark == "inprocess":
        return inprocess.main(found.variants, found.rounds, quiet=found.json, save=found.save)
    if found.benchmark == "store":
        return store.main(found.rounds, quiet=found.json, save=found.save)
    if found.benchmark == "stream":
        return stream.main(found.rounds, quiet=found.json, save=found.save)
    if found.benchmark == "detection":
        return detection.main(
            found.rounds,
            namespaces=found.namespaces,
            consistency=found.consistency,
            quiet=found.json,
            save=found.save,
        )
    if found.benchmark == "healing":
        return healing.main(found.groups, quiet=found.json, save=found.save)
    plan = load.Plan(found.variants, found.rounds, found.seconds, found.connections)
    if found.benchmark in frameworks.FRAMEWORKS:
        asked = {found.benchmark, found.route}
        chosen = tuple(name for name in frameworks.FRAMEWORKS if name in asked)
        return frameworks.main(chosen, plan, quiet=found.json, save=found.save)
    if found.benchmark == "router":
        return fronts.main(plan, quiet=found.json, save=found.save)
    if found.benchmark == "elements":
        return elements.main(plan, quiet=found.json, save=found.save)
    return load.main(plan, quiet=found.json, save=found.save)


def _leave(number: int, _frame: FrameType | None) -> None:
    """End as an exception, so that the processes that were started are ended too."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())

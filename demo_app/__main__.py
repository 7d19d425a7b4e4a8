"""`python -m demo_app`: the demo; with `--check`: servers die under load and nothing is lost."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from demo_app import check
from demo_app.cluster import Cluster, Front, Plan, StartFailed
from demo_app.control import Control


def main(words: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit status."""
    options = _parser().parse_args(words)
    work = _check(options) if options.check else _demo(options)
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        return 130


async def _check(options: argparse.Namespace) -> int:
    return await check.run(
        check.Options(
            kills=options.kills,
            rolling=options.rolling,
            clients=options.clients,
            seed=options.seed,
            nodes=options.nodes,
            workers=options.workers,
            front=options.front,
            consistency=options.consistency,
            port=options.port or 0,
            history=options.history,
        )
    )


async def _demo(options: argparse.Namespace) -> int:
    """Start everything, print where it is, and stop everything at Ctrl-C."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    plan = Plan(
        nodes=options.nodes,
        workers=options.workers,
        front=options.front,
        port=options.port or 8000,
        consistency=options.consistency,
    )
    cluster = Cluster(plan)
    control = Control(cluster)
    failed = False
    try:
        await control.start()
        starting = asyncio.create_task(cluster.start())
        await _first(starting, stop)
        if not stop.is_set():
            await starting
            print(f"The shop is open: {cluster.url}/\nCtrl-C stops everything.", flush=True)
            await stop.wait()
        starting.cancel()
    except StartFailed as error:
        failed = True
        print(error, file=sys.stderr)
    finally:
        await control.stop()
        await cluster.stop(keep_logs=failed)
    return 1 if failed else 0


async def _first(task: asyncio.Task[None], event: asyncio.Event) -> None:
    """Wait for whichever comes first."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m demo_app",
        description="A small shop on several servers of this machine that can be killed.",
    )
    parser.add_argument("--nodes", type=_Count(2, 9), default=3, help="servers (default 3)")
    parser.add_argument(
        "--workers", type=_Count(1, 16), default=1, help="uvicorn workers of a server (default 1)"
    )
    parser.add_argument(
        "--front",
        choices=get_args(Front),
        default="router",
        help="`sessionha router`, a real balancer, or one that knows nothing of the cookies",
    )
    parser.add_argument(
        "--consistency",
        choices=("available", "quorum"),
        default="available",
        help="with `quorum` the last server of three stops (default available)",
    )
    parser.add_argument("--port", type=_Count(1, 65_000), help="of the front (default 8000)")
    group = parser.add_argument_group("check", "kill servers under load, count what was lost")
    group.add_argument("--check", action="store_true")
    group.add_argument("--kills", type=_Count(0, 100_000), default=10, metavar="N")
    restarts = "planned restarts, one server after the other, and no kills"
    group.add_argument("--rolling", type=_Count(0, 100_000), default=0, metavar="N", help=restarts)
    group.add_argument(
        "--clients",
        type=_Count(1, 1000),
        default=8,
        help="that write without pause (default 8; with 32 the servers have so much to do that a"
        " killed one has its copies again after half a minute)",
    )
    group.add_argument("--seed", type=int, default=1, help="of victims and moments")
    group.add_argument("--history", type=Path, metavar="FILE", help="one line for each request")
    return parser


class _Count:
    """A whole number in a range, for argparse."""

    def __init__(self, low: int, high: int) -> None:
        self._range = range(low, high + 1)

    def __call__(self, text: str) -> int:
        if not text.isdecimal() or int(text) not in self._range:
            first, last = self._range[0], self._range[-1]
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {first} to {last}")
        return int(text)


if __name__ == "__main__":
    sys.exit(main())

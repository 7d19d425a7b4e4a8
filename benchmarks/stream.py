"""Round trips and changes per second of the stream between two nodes, beside redis-py's SET."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

from benchmarks import figures
from benchmarks.processes import NotStarted, Processes
from benchmarks.stream_client import IN_FLIGHT, KINDS, STREAM, VALUE

Found = dict[str, list[dict[str, Any]]]
"""By kind, what each round found."""


def measure(rounds: int) -> Found:
    """Run every kind in every round: the sender on one core, who answers on another."""
    found: Found = {kind: [] for kind in KINDS}
    with Processes() as processes:
        key = {"BENCHMARK_KEY": secrets.token_hex(32)}
        addresses = dict.fromkeys(KINDS, processes.redis())
        addresses[STREAM] = _receiver(processes, key)
        for number in range(rounds):
            start = number % len(KINDS)
            for kind in KINDS[start:] + KINDS[:start]:
                found[kind].append(_one(kind, addresses[kind], processes, key))
    return found


def _receiver(processes: Processes, key: Mapping[str, str]) -> str:
    """Start the receiving side; its address."""
    directory = str(processes.memory / "store")
    process = processes.python(
        "benchmarks.stream_peer", [directory], processes.cores.helper, key, pipes=True
    )
    assert process.stdout is not None
    address = process.stdout.readline().decode().strip()
    if not address:
        process.wait()
        raise NotStarted(processes.said(process))
    return address


def _one(kind: str, address: str, processes: Processes, key: Mapping[str, str]) -> dict[str, Any]:
    process = processes.python(
        "benchmarks.stream_client", [kind, address], processes.cores.server, key, pipes=True
    )
    output, _ = process.communicate(timeout=60)
    if process.returncode != 0:
        raise NotStarted(processes.said(process))
    figures_found: dict[str, Any] = json.loads(output)
    return figures_found


def report(found: Found) -> dict[str, Any]:
    """The JSON: ratios of the stream's rates to each other kind's, then the figures."""
    return {
        "ratios": {
            kind: {
                str(in_flight): figures.significant(mine.median / its.median)
                for in_flight in IN_FLIGHT
                if (mine := _rate(found, STREAM, in_flight))
                and (its := _rate(found, kind, in_flight))
            }
            for kind in KINDS
        },
        "alone_us": {
            kind: {
                point: spread.rounded()
                for point in ("p50", "p99")
                if (spread := _alone(found, kind, point))
            }
            for kind in KINDS
        },
        "changes_per_s": {
            kind: {
                str(in_flight): spread.rounded()
                for in_flight in IN_FLIGHT
                if (spread := _rate(found, kind, in_flight))
            }
            for kind in KINDS
        },
        "value_bytes": len(VALUE),
        "rounds": len(found[STREAM]),
        "machine": figures.machine(),
    }


def text(found: Found) -> str:
    """The table."""
    header = [
        "kind",
        "alone p50 us",
        "p99 us",
        *(f"{count} in flight, changes/s" for count in IN_FLIGHT),
    ]
    rows = [
        [
            kind,
            *(str(_alone(found, kind, point) or "–") for point in ("p50", "p99")),
            *(str(_rate(found, kind, in_flight) or "–") for in_flight in IN_FLIGHT),
        ]
        for kind in KINDS
    ]
    return figures.table(header, rows)


def _alone(found: Found, kind: str, point: str) -> figures.Spread | None:
    values = [one[point] for one in found[kind] if point in one]
    return figures.spread(values) if values else None


def _rate(found: Found, kind: str, in_flight: int) -> figures.Spread | None:
    values = [one["rates"][str(in_flight)] for one in found[kind] if str(in_flight) in one["rates"]]
    return figures.spread(values) if values else None


def main(rounds: int, *, quiet: bool, save: bool) -> int:
    """Measure and print."""
    found = measure(rounds)
    figures.publish("stream", report(found), text(found), quiet=quiet, save=save)
    return 0

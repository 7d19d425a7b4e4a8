"""The sending side of one kind of replication: a process that measures its own round trips.

`python -m benchmarks.stream_client KIND ADDRESS`, with KIND one of KINDS. Prints one JSON line:
microseconds of a call alone (`p50`, `p99`) and changes per second by number in flight (`rates`).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import redis
import redis.asyncio
import uvloop

from benchmarks.stream_peer import NODE, streams
from sessionha.identity import Epoch, Position
from sessionha.peer.messages import ElementRow, Push, Pushed

STREAM, ASYNCIO, SYNC, PIPELINE = "stream", "redis-asyncio", "redis-sync", "redis-pipeline"
KINDS = (STREAM, ASYNCIO, SYNC, PIPELINE)

IN_FLIGHT = (64, 256)
"""Requests of a busy server that change a session at the same time."""

ALONE = 4000
"""Calls, one after another: enough for a 99th percentile of forty."""

SECONDS = 1.0
"""Of each measurement of a rate."""

VALUE = b"v" * 1024
"""What one change carries: one kilobyte, as the state of the other benchmarks."""

Send = Callable[[int], Awaitable[None]]
"""Carry one change, numbered, to the other side and return when it is acknowledged."""


async def alone(send: Send) -> dict[str, float]:
    """Percentiles of single calls, microseconds."""
    for number in range(500):
        await send(number)
    took = []
    for number in range(ALONE):
        started = time.perf_counter()
        await send(number)
        took.append(time.perf_counter() - started)
    return _percentiles(took)


async def rate(send: Send, in_flight: int) -> float:
    """Changes per second with so many in flight."""
    until = time.perf_counter() + SECONDS

    async def repeat(number: int) -> int:
        done = 0
        while time.perf_counter() < until:
            await send(number)
            done += 1
        return done

    started = time.perf_counter()
    counts = await asyncio.gather(*(repeat(number) for number in range(in_flight)))
    return sum(counts) / (time.perf_counter() - started)


async def over_stream(address: str) -> dict[str, Any]:
    """One Push for each change, as a commit sends it; acknowledged when it is stored."""
    sender = streams("sender")
    sender.know({NODE: address})
    epoch = Epoch(view=1, attempt=1, node="sender")

    async def send(number: int) -> None:
        key = number.to_bytes(16, "big")
        row = ElementRow(key, "cart", number, "value", VALUE)
        answer = await sender.call(NODE, _push(key, epoch, number, row), 5.0)
        assert isinstance(answer, Pushed), answer

    try:
        return await _figures(send)
    finally:
        await sender.close()


def _push(key: bytes, epoch: Epoch, version: int, row: ElementRow) -> Push:
    return Push(
        group=key[:12],
        base=Position(epoch, version - 1),
        full=False,
        epoch=epoch,
        version=version,
        acked=version - 1,
        line=((epoch, 0),),
        holders=("sender", NODE),
        formed=(1, ""),
        seats=("sender", NODE),
        trimmed=0,
        sessions=(),
        elements=(row,),
    )


async def over_redis(address: str) -> dict[str, Any]:
    """One SET for each change, each in flight on a connection of the pool."""
    client = redis.asyncio.Redis.from_url(address, max_connections=max(IN_FLIGHT))

    async def send(number: int) -> None:
        await client.set(f"session:{number}", VALUE)

    try:
        return await _figures(send)
    finally:
        await client.aclose()


def over_redis_sync(address: str) -> dict[str, Any]:
    """One SET after another, from one thread."""
    client = redis.Redis.from_url(address)
    took = []
    for number in range(ALONE):
        started = time.perf_counter()
        client.set(f"session:{number}", VALUE)
        took.append(time.perf_counter() - started)
    client.close()
    return {**_percentiles(took), "rates": {}}


def over_redis_pipeline(address: str) -> dict[str, Any]:
    """All that is in flight in one pipeline: what an application could do that waits for it."""
    client = redis.Redis.from_url(address)
    rates = {}
    for in_flight in IN_FLIGHT:
        started, done = time.perf_counter(), 0
        while time.perf_counter() - started < SECONDS:
            pipeline = client.pipeline(transaction=False)
            for number in range(in_flight):
                pipeline.set(f"session:{number}", VALUE)
            pipeline.execute()
            done += in_flight
        rates[str(in_flight)] = done / (time.perf_counter() - started)
    client.close()
    return {"rates": rates}


async def _figures(send: Send) -> dict[str, Any]:
    return {
        **await alone(send),
        "rates": {str(in_flight): await rate(send, in_flight) for in_flight in IN_FLIGHT},
    }


def _percentiles(took: list[float]) -> dict[str, float]:
    ordered = sorted(took)
    return {
        "p50": ordered[len(ordered) // 2] * 1e6,
        "p99": ordered[len(ordered) * 99 // 100] * 1e6,
    }


def main(kind: str, address: str) -> None:
    """Measure one kind and print the figures."""
    if kind == SYNC:
        found = over_redis_sync(address)
    elif kind == PIPELINE:
        found = over_redis_pipeline(address)
    else:
        found = uvloop.run(over_redis(address) if kind == ASYNCIO else over_stream(address))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The receiving side of a stream: a process that stores every change before it acknowledges it.

`python -m benchmarks.stream_peer DIRECTORY`; prints the address on which it listens, and runs
until it is terminated. `BENCHMARK_KEY` is the cluster secret.
"""

from __future__ import annotations

import asyncio
import os
import sys

import uvloop

from sessionha.identity import new_incarnation
from sessionha.peer.base import Sender
from sessionha.peer.messages import Done, Message, Push, Pushed
from sessionha.peer.streams import Streams
from sessionha.store.base import Store
from sessionha.store.lmdb import LMDBStore

NODE = "receiver"
CLUSTER = "benchmark"
STORE_BYTES = 256 * 2**20


def streams(node: str, store: Store | None = None) -> Streams:
    """One end of the stream; with a store it answers pushes."""
    secret = os.environ["BENCHMARK_KEY"].encode()
    incarnation = new_incarnation()

    def answer(_: Sender, message: Message) -> Message:
        if store is None or not isinstance(message, Push):
            return Done()
        with store.write() as writer:
            for row in message.elements:
                writer.put(row.session + row.name.encode(), row.value or b"")
        return Pushed(message.version)

    return Streams(
        node, CLUSTER, answer, secrets=lambda: (secret,), incarnation=lambda: incarnation
    )


async def main(directory: str) -> None:
    """Listen until the process is terminated."""
    receiver = streams(NODE, LMDBStore(directory, size=STORE_BYTES).open())
    host, port = await receiver.start_listening("127.0.0.1", 0)
    print(f"{host}:{port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))

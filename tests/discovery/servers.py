"""What discovery asks, on the loopback: a DNS server with records that change, and redis-server."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import dns.message
import dns.rcode
import dns.rrset

from tests.live.cluster import free_port, until


class NameServer(asyncio.DatagramProtocol):
    """Answers from `records`: (name, type) to the data of each record. `silent`: not at all."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[str]] = {}
        self.silent = False
        self.port = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, address: Any) -> None:
        if self.silent:
            return
        query = dns.message.from_wire(data)
        asked = query.question[0]
        name, kind = asked.name.to_text().rstrip("."), asked.rdtype.name
        response = dns.message.make_response(query)
        if found := self.records.get((name, kind)):
            response.answer.append(dns.rrset.from_text(asked.name, 5, "IN", kind, *found))
        elif not any(known == name for known, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        self._transport.sendto(response.to_wire(), address)


@contextlib.asynccontextmanager
async def name_server() -> AsyncIterator[NameServer]:
    """A DNS server on a free port."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    try:
        yield server
    finally:
        transport.close()


@contextlib.asynccontextmanager
async def redis_server(*options: str) -> AsyncIterator[int]:
    """A redis-server that keeps nothing on a disk; its port."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="sessionha-redis-") as place:
        process = await asyncio.create_subprocess_exec(
            *("redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", place),
            *("--save", "", "--appendonly", "no", *options),
            stdout=asyncio.subprocess.DEVNULL,
        )

        async def listens() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return False
            writer.close()
            await writer.wait_closed()
            return True

        try:
            await until("redis-server listens", listens)
            yield port
        finally:
            with contextlib.suppress(ProcessLookupError):  # a test may have ended it
                process.kill()
            await process.wait()

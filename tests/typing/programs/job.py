"""A job that works in a session from outside."""

from collections.abc import MutableMapping
from typing import Any

from sessionha import SessionUnavailable
from sessionha.client import AsyncClient, Client, NoSession, RemoteSession, Written


def ship(token: str, session_id: str) -> int:
    with Client("http://127.0.0.1:7947", token, virtual_server="shop") as client:
        session: RemoteSession = client.session(session_id)
        written: Written = session.patch("cart", ["append", ["lines"], [{"sku": "leaf"}]])
        session.write({"theme": "dark"}, {"log": [["append", [], [1]]]}, ["draft"])
        session["parcels"] = session.get("parcels", 0) + 1
        return written.copies


def as_mapping(session: RemoteSession) -> MutableMapping[str, Any]:
    return session


async def count(token: str, session_id: str) -> Any:
    async with AsyncClient("http://127.0.0.1:7947", token) as client:
        try:
            return await client.session(session_id).increment("visits", 2)
        except (NoSession, SessionUnavailable):
            return None

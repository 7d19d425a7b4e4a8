"""Sessions from outside: a client of the nodes' data API, for jobs, tools and tests.

It speaks HTTP only: it opens no store and joins no cluster. Needs the extra `client`.
"""

try:
    import httpx2  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "sessionha.client needs the extra `client` (httpx2 is not installed):"
        " pip install 'sessionha[client]'",
        name=error.name,
    ) from None

from sessionha.client.sessions import AsyncClient, AsyncRemoteSession, Client, RemoteSession
from sessionha.client.talk import Written
from sessionha.errors import NoSession, OperationRefused, RequestRefused, WrongManager

__all__ = [
    "AsyncClient",
    "AsyncRemoteSession",
    "Client",
    "NoSession",
    "OperationRefused",
    "RemoteSession",
    "RequestRefused",
    "Written",
    "WrongManager",
]

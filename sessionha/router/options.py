"""How the router treats requests: limits, times and preferences."""

from __future__ import annotations

from dataclasses import dataclass

from sessionha.kinds import DEFAULT_POLICY, PolicyWord
from sessionha.router.framing import HEAD_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Every limit of the router. Times are seconds."""

    connect_timeout: float = 1.0
    """Until a server that does not accept is passed over."""
    head_timeout: float = 10.0
    """From the first byte of a client's request until its head is here, however it drips."""
    client_timeout: float = 60.0
    """Without a byte of a request's body, or without one of the answer taken by its client."""
    response_timeout: float = 30.0
    """From the last piece of a request to the head of its response; streams last as they like.
    Above the time a node may take to acquire a session (`acquire_timeout`, 3 s)."""
    elsewhere_timeout: float = 3.0
    """How long a request that may be repeated is offered to others after a node passed it on."""
    queue_timeout: float = 5.0
    """How long a request waits for room at its server; then it is answered with 503."""
    drain_timeout: float = 10.0
    """How long requests may take to end after the router was told to stop."""
    connections: int = 8192
    """Of clients, at the same time, in one process."""
    server_requests: int = 1000
    """Sent to one server at the same time, by one process; more than a Python server carries."""
    queue_requests: int = 1000
    """Waiting for room at one server; what comes beyond is answered with 503 at once."""
    head_bytes: int = HEAD_BYTES
    """Of a request line and headers, and of those of an answer."""
    replay_bytes: int = 1 << 20
    """Body bytes kept for another attempt."""
    message_bytes: int = 16 << 20
    """Largest websocket message."""
    policy: tuple[PolicyWord, ...] = DEFAULT_POLICY
    """How a node is chosen for a new client (`balance.Preference`)."""
    zone: str = ""
    """New clients go to servers of this zone while one is ready."""
    engine_types: tuple[tuple[str, str], ...] = ()
    """Path prefix and the engine type that serves what is below it; the longest stands first."""
    health_path: str = ""
    """Answered by the router: 200 when it knows a server, 404 when it stops, else 503. Empty:
    none."""
    check_path: str = ""
    """Asked of every server each second: 200 serves, 404 drains, all else fails. Empty: none is
    asked, and what the view and the requests themselves tell is all."""
    metrics_port: int = 0
    """Of the process's own port that answers `/metrics` and nothing else; 0: none does."""

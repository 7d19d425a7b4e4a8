"""How the router treats requests: limits, times and preferences."""

from __future__ import annotations

from dataclasses import dataclass

from sessionha.kinds import DEFAULT_POLICY, PolicyWord


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Every limit of the router. Times are seconds."""

    connect_timeout: float = 1.0
    """Until a server that does not accept is passed over."""
    response_timeout: float = 30.0
    """From the last piece of a request to the head of its response; streams last as they like.
    Above the time a node may take to acquire a session (`acquire_timeout`, 3 s)."""
    elsewhere_timeout: float = 3.0
    """How long a request that may be repeated is offered to others after a node passed it on."""
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
    """Answered by the router: 200 when it knows a server, else 503. Empty: none."""

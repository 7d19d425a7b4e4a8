"""Builds the router from settings and runs it: what `sessionha router` calls."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

import uvicorn

from sessionha.discovery.base import Found, Proof
from sessionha.discovery.seeker import Seeker
from sessionha.discovery.source import open_source
from sessionha.errors import InvalidSettings
from sessionha.identity import new_incarnation
from sessionha.keys import ROUTE_LABEL
from sessionha.peer.base import Sender
from sessionha.peer.messages import Message
from sessionha.peer.streams import Streams
from sessionha.router.app import Beside, Router
from sessionha.router.follow import Follower
from sessionha.router.options import Options
from sessionha.router.upstreams import Upstreams
from sessionha.session.cookies import RouteCookies
from sessionha.settings import Settings
from sessionha.view import View

HASTE: Final = 0.5
"""Seconds between two looks for nodes until the first view is followed."""


class ClusterObserver:
    """Follows the view over peer streams; opened and closed with the router."""

    def __init__(self, settings: Settings, changed: Callable[[View], None]) -> None:
        """Raises InvalidSettings when what finds the nodes cannot be used."""
        incarnation = new_incarnation()
        self._streams = Streams(
            f"router-{secrets.token_hex(4)}",
            settings.cluster,
            _say_nothing,
            secrets=lambda: settings.secret,
            incarnation=lambda: incarnation,
            role="observer",
        )
        self._follower = Follower(self._streams, dict(settings.description.addresses), changed)
        self._seeker: Seeker | None = None
        if settings.discovery is not None:
            self._seeker = Seeker(
                open_source(settings.discovery, settings.cluster),
                str(settings.discovery),
                self._streams.identify,
                _Seeking(self._follower),
                haste=HASTE,
            )

    def start(self) -> None:
        """Begin to follow."""
        self._follower.start()
        if self._seeker is not None:
            self._seeker.start()

    async def stop(self) -> None:
        """Stop following and close the streams."""
        if self._seeker is not None:
            await self._seeker.stop()
        await self._follower.stop()
        await self._streams.close()


class _Seeking:
    """What the seeker asks of a router, and tells it."""

    seeks = True

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    @property
    def settled(self) -> bool:
        return bool(self._follower.view.members)

    def own(self) -> None:
        """A router is no node: it announces nothing."""

    def members(self) -> Mapping[str, Proof]:
        members = self._follower.view.members
        return {member.peer: Proof(member.node, member.incarnation) for member in members}

    def found(self, directory: Mapping[str, Found]) -> None:
        self._follower.seek({node: each.address for node, each in directory.items()})


def _say_nothing(sender: Sender, message: Message) -> None:
    """An observer asks; nobody has anything to ask it."""


def _contradictions(settings: Settings) -> Iterable[str]:
    by_zone = "zone" in settings.policy
    if by_zone and not settings.zone and "policy" in settings.origins:
        yield "`policy` has the word `zone`, but no zone is known: set `zone` (--zone)"
    if settings.zone and not by_zone and settings.origins["zone"] == "keyword":
        yield (
            f"`zone` = {settings.zone!r} has no effect on `policy` ="
            f" {','.join(settings.policy)}: begin it with the word `zone`, or leave `zone` out"
        )


def build(
    settings: Settings, options: Options | None = None, beside: Beside | None = None
) -> Router:
    """The router of a cluster; nothing is opened before it starts.

    Raises:
        InvalidSettings: no nodes, no cluster secret, or a policy that cannot be followed.
    """
    problems = list(_contradictions(settings))
    if not settings.has_nodes:
        problems.append(
            "`nodes` is empty: name the cluster's nodes and their peer addresses, for instance"
            " SESSIONHA_NODES=n1=http://10.0.0.1:7946, or where to find them: dns://…, redis://…"
        )
    if not settings.secret:
        problems.append("`secret` is not set: give the router the nodes' SESSIONHA_SECRET")
    if problems:
        raise InvalidSettings(problems)
    upstreams = Upstreams(time.monotonic)
    cookies = RouteCookies(settings.keys(ROUTE_LABEL), settings.route_cookie)
    observer = ClusterObserver(settings, upstreams.view_changed)
    options = replace(
        options or Options(),
        policy=settings.policy,
        zone=settings.zone,
        engine_types=settings.engine_types,
    )
    return Router(upstreams, cookies, options, observer, beside)


def serve(
    settings: Settings,
    listen: str = "127.0.0.1:8000",
    options: Options | None = None,
    *,
    beside: Beside | None = None,
    trusted_proxies: str = "",
    tls_certificate: str | None = None,
    tls_key: str | None = None,
) -> None:
    """Run the router until it is told to stop (SIGINT, SIGTERM).

    Args:
        settings: From `Settings.observe`: the cluster's nodes, secret and cookie name, and how
            servers are chosen.
        listen: `host:port` for clients.
        options: Limits.
        beside: Started and stopped with the router; a witness.
        trusted_proxies: Addresses (comma-separated) whose `X-Forwarded-For` and `-Proto` are
            believed, when something stands in front of the router; empty: nobody's.
        tls_certificate: PEM file of the certificate, to serve https.
        tls_key: PEM file of its key.

    Raises:
        InvalidSettings: as `build`, or `listen` is no address.
    """
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise InvalidSettings([f"`listen` = {listen!r} must be host:port, such as 0.0.0.0:8000"])
    options = options or Options()
    uvicorn.run(
        build(settings, options, beside),
        host=host.strip("[]"),
        port=int(port),
        access_log=False,  # nothing per request above DEBUG
        log_level="info",
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=trusted_proxies or None,
        server_header=False,  # both are the upstream's
        date_header=False,
        ws_max_size=options.message_bytes,
        timeout_keep_alive=75,  # as browsers expect of a front server
        timeout_graceful_shutdown=10,
        ssl_certfile=tls_certificate,
        ssl_keyfile=tls_key,
    )

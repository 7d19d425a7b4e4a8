"""Builds the router from settings and runs it: what `sessionha router` calls."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

import uvicorn

from sessionha.errors import InvalidSettings
from sessionha.keys import ROUTE_LABEL
from sessionha.router.app import Beside, Router
from sessionha.router.observer import ClusterObserver, lacking
from sessionha.router.options import Options
from sessionha.router.upstreams import Upstreams
from sessionha.session.cookies import RouteCookies
from sessionha.settings import Settings


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
    problems += lacking(settings, "the router")
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

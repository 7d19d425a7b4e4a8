"""Builds the router from settings and runs it: what `sessionha router` calls."""

from __future__ import annotations

import gc
import logging
import os
import socket
import ssl
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from sessionha.errors import InvalidSettings
from sessionha.keys import ROUTE_LABEL
from sessionha.router import front
from sessionha.router.access import AccessLog
from sessionha.router.app import Beside, Router
from sessionha.router.observer import ClusterObserver, lacking
from sessionha.router.options import Options
from sessionha.router.upstreams import Upstreams
from sessionha.router.workers import Workers
from sessionha.session.cookies import RouteCookies
from sessionha.settings import Settings

if sys.platform != "win32":
    import resource

logger = logging.getLogger("sessionha.router")

BACKLOG: Final = 2048
"""Connections that the kernel keeps for the router while it is busy."""

FILES: Final = 65_536
"""Open files that the router asks for: two for each request in flight."""


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
    settings: Settings,
    options: Options | None = None,
    beside: Beside | None = None,
    access: AccessLog | None = None,
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
    observer = ClusterObserver(settings, upstreams.view_changed)
    options = _preferring(options or Options(), settings)
    return Router(upstreams, _cookies(settings), options, observer, beside, access=access)


def _preferring(options: Options, settings: Settings) -> Options:
    return replace(
        options,
        policy=settings.policy,
        zone=settings.zone,
        engine_types=settings.engine_types,
    )


def _cookies(settings: Settings) -> RouteCookies:
    return RouteCookies(settings.keys(ROUTE_LABEL), settings.route_cookie)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """How the router is served, besides its options."""

    listen: str = "127.0.0.1:8000"
    """`host:port` for clients."""
    workers: int = 1
    """Processes behind that address."""
    drain_delay: float = 0.0
    """Seconds between SIGTERM, from which the health page says 404, and the end of listening."""
    trusted_proxies: str = ""
    """Addresses (comma-separated) whose `X-Forwarded-For` and `-Proto` are believed, when
    something stands in front of the router; empty: nobody's."""
    tls_certificate: str | None = None
    """PEM file of the certificate, to serve https."""
    tls_key: str | None = None
    """PEM file of its key."""
    metrics: str = ""
    """`host:port` of the first worker's metrics, each further one's a port above; empty: none."""
    access_log: str = ""
    """File of the access log, `-` for standard output; empty: none."""


def serve(
    settings: Settings,
    service: Service,
    options: Options | None = None,
    *,
    beside: Beside | None = None,
) -> None:
    """Run the router until it is told to stop (SIGINT, SIGTERM); SIGHUP reads files again.

    Args:
        settings: From `Settings.observe`: the cluster's nodes, secret and cookie name, and how
            servers are chosen.
        service: Where and how.
        options: Limits.
        beside: Started and stopped with the router; a witness.

    Raises:
        InvalidSettings: as `build`, an address that is none or cannot be had, or a witness beside
            several workers.
        SystemExit: it could not start; the log says why.
    """
    host, port = _address("listen", service.listen)
    build(settings, options)  # before anything is opened
    if beside is not None and service.workers > 1:
        raise InvalidSettings(
            ["a witness is one process: leave `--workers` out, or run `sessionha witness` beside"]
        )
    _raise_limits()
    gauges = [_metrics_socket(service.metrics, number) for number in range(service.workers)]
    if service.workers == 1:
        Serving(settings, service, options or Options(), beside, gauges[0]).run(host, port)
        return
    shared = _bound("listen", host, port)
    logger.info("%d workers serve %s", service.workers, service.listen)
    parent = os.getpid()

    def work(number: int) -> None:
        serving = Serving(settings, service, options or Options(), None, gauges[number])
        serving.run_under(parent, shared)

    lasting = service.drain_delay + (options or Options()).drain_timeout
    if code := Workers(service.workers, work, lasting).run():
        raise SystemExit(code)


def _freeze() -> None:
    """What is here when the process begins to serve stays: no collection looks at it again, which
    took some 20 ms, for which every request waited."""
    gc.collect()
    gc.freeze()


class Serving:
    """One process of the router."""

    def __init__(
        self,
        settings: Settings,
        service: Service,
        options: Options,
        beside: Beside | None,
        gauges: socket.socket | None,
    ) -> None:
        """`gauges`: listens for those who want the metrics."""
        self._settings = settings
        self._service = service
        self._access = AccessLog(service.access_log) if service.access_log else None
        if gauges is not None:
            options = replace(options, metrics_port=gauges.getsockname()[1])
        self._gauges = gauges
        self._router = build(settings, options, beside, self._access)
        self._tls: ssl.SSLContext | None = None

    def run(self, host: str, port: int) -> None:
        """Listen at an address."""
        server = self._front(host=host, port=port)
        _freeze()
        with suppress(KeyboardInterrupt):
            server.run()

    def run_under(self, parent: int, shared: socket.socket) -> None:
        """Listen at a socket that other processes listen at too, until the parent is gone."""
        server = self._front(loop="auto")
        ticked = server.ticked

        def tick() -> None:
            ticked()
            if os.getppid() != parent:
                server.should_exit = True

        server.ticked = tick
        _freeze()
        server.run(sockets=[shared])

    def _front(self, **where: Any) -> front.Front:
        service, router = self._service, self._router
        config = front.config(
            router,
            router.options,
            router.counts,
            trusted_proxies=service.trusted_proxies,
            log_level="info",
            backlog=BACKLOG,
            ssl_certfile=service.tls_certificate,
            ssl_keyfile=service.tls_key,
            **where,
        )
        try:
            config.load()
        except OSError as error:  # ssl's errors are such too
            named = f"`--tls-certificate` {service.tls_certificate}, `--tls-key` {service.tls_key}"
            raise InvalidSettings([f"{named} cannot be used: {error}"]) from error
        self._tls = config.ssl
        server = front.Front(config, service.drain_delay, self._gauges)
        server.draining = partial(setattr, router, "draining", True)
        server.reload = self.reload
        if self._access is not None:
            server.ticked = self._access.flush
        return server

    def reload(self) -> None:
        """Take over what changed in files: secrets, nodes, the certificate; go on in a new access
        log. What cannot be used changes nothing. Connections go on as they are."""
        if self._access is not None:
            self._access.reopen()
        try:
            settings = self._settings.reloaded()
            if not settings.secret:
                raise InvalidSettings(["`secret` is not set any more"])
            if self._tls is not None:
                self._tls.load_cert_chain(str(self._service.tls_certificate), self._service.tls_key)
        except (InvalidSettings, OSError) as problem:  # ssl's errors are of the latter kind
            logger.error("the router goes on with the settings it has: %s", problem)
            return
        self._settings = settings
        self._router.use(_cookies(settings))
        self._router.prefer(_preferring(self._router.options, settings))
        if isinstance(self._router.observer, ClusterObserver):
            self._router.observer.use(settings)
        logger.info("the router has read its settings again")


def _address(name: str, text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise InvalidSettings([f"`{name}` = {text!r} must be host:port, such as 0.0.0.0:8000"])
    return host.strip("[]"), int(port)


def _bound(name: str, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise InvalidSettings([f"`{name}`: cannot listen at {host}:{port}: {error}"]) from error


def _metrics_socket(metrics: str, number: int) -> socket.socket | None:
    if not metrics:
        return None
    host, port = _address("metrics", metrics)
    return _bound("metrics", host, port + number if port else 0)


def _raise_limits() -> None:
    """Ask for as many open files as the system gives; 1,024 is the usual default."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

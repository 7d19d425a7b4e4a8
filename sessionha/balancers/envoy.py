"""Configuration for Envoy: files that it watches, and a script that verifies the cookie.

The script turns the cookie's names into addresses, and Envoy's `override_host` policy tries these
in their order. That policy ignores health, so only servers that serve are told to the script.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.resources import files as resources
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import msgspec

from sessionha.balancers.base import File, Files, Keys, Options, one_scheme, verifying
from sessionha.balancers.document import Document, Server
from sessionha.errors import InvalidSettings

CLUSTER: Final = "sessionha-cluster.yaml"
SERVERS: Final = "sessionha-servers.yaml"
ROUTES: Final = "sessionha-routes.yaml"
SCRIPT: Final = "sessionha-route.lua"

RETRIES: Final = 8
"""A request that kills every server it is sent to must not visit them all; but a few may refuse
at once, who cost nothing."""

IDLE: Final = 4
"""Seconds until an idle connection is closed: before uvicorn's five are over, so that a request
seldom meets a connection that its server is just closing."""

BODY: Final = 8 * 2**20
"""Bytes of a request that are kept to send it to another server; a longer one is not repeated."""

TYPES: Final = "type.googleapis.com/envoy"


class Envoy:
    """Envoy 1.34 or later."""

    place = Path("/etc/envoy")
    main = CLUSTER
    verifies = True
    asks = True
    check: tuple[str, ...] = ("envoy", "--mode", "validate", "-c", "/etc/envoy/envoy.yaml")
    reload: tuple[str, ...] = ()

    def __init__(self, look_up: Callable[[str], str] | None = None) -> None:
        """`look_up`: the address of a host; OSError when it has none."""
        self._look_up = look_up or _first_address

    def files(self, document: Document, keys: Keys, options: Options) -> Files:
        """The cluster, its servers, the routes (which have the keys), and the script.

        Raises:
            InvalidSettings: servers that speak https, hosts without an address, or no keys.
        """
        if one_scheme(document) != "http":
            raise InvalidSettings(
                [
                    "Envoy: the nodes' `url` are https, and which certificates it should trust is"
                    " not known here: let the nodes speak http on a private network"
                ]
            )
        keys = verifying(keys, options)
        addresses = {each.name: self._address(each) for each in _members(document)}
        script = resources("sessionha.balancers").joinpath("route.lua")
        return {
            SERVERS: File(_text(_servers(document, addresses)), live=True),
            CLUSTER: File(_text(_cluster(document, options)), live=True),
            ROUTES: File(_text(_routes(document, addresses, keys, options)), True, live=True),
            SCRIPT: File(script.read_text(encoding="utf-8")),
        }

    async def adopt(self, document: Document, keys: Keys, options: Options) -> bool:
        """Envoy watches the files."""
        del document, keys, options
        return True

    def _address(self, server: Server) -> tuple[str, int]:
        try:
            return str(ip_address(server.host)), server.port
        except ValueError:
            pass
        try:
            return self._look_up(server.host), server.port
        except OSError as error:
            problem = f"Envoy needs addresses, and {server.host} of {server.node} has none: {error}"
            raise InvalidSettings([problem]) from error


def _first_address(host: str) -> str:
    return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])


def _members(document: Document) -> tuple[Server, ...]:
    return (*document.routable, *document.draining)


def _text(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"


def _json(value: Any) -> str:
    """YAML on one line."""
    return msgspec.json.encode(value).decode()


def _resource(lines: Iterable[str], kind: str) -> Iterator[str]:
    """A file of one resource; its version is of its content."""
    rows = list(lines)
    digest = hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]
    yield f'version_info: "{digest}"'
    yield "resources:"
    yield f'- "@type": {TYPES}.config.{kind}'
    yield from (f"  {row}" if row else "" for row in rows)


def _cluster(document: Document, options: Options) -> Iterator[str]:
    yield f"# The cluster {document.cluster}. Generated: `cds_config` of your envoy.yaml is this."
    yield options.line
    policies = f"{TYPES}.extensions.load_balancing_policies"
    rows = [
        "name: sessionha",
        "type: EDS",
        f"eds_cluster_config: {{eds_config: {_watched(options.place / SERVERS)}}}",
        f"connect_timeout: {options.connect_timeout:g}s",
        "# Where the script says no server, or none of those answers: any that is healthy; when",
        "# nobody is, any at all, because trying is better than giving up.",
        "load_balancing_policy:",
        "  policies:",
        "  - typed_extension_config:",
        "      name: envoy.load_balancing_policies.override_host",
        "      typed_config:",
        f'        "@type": {policies}.override_host.v3.OverrideHost',
        "        override_host_sources:",
        "        - metadata: {key: sessionha, path: [{key: servers}]}",
        "        fallback_policy:",
        "          policies:",
        "          - typed_extension_config:",
        "              name: envoy.load_balancing_policies.round_robin",
        "              typed_config:",
        f'                "@type": {policies}.round_robin.v3.RoundRobin',
        "common_lb_config: {healthy_panic_threshold: {value: 0.1}}",
        "# By default only three requests are repeated at a time: too few when a server dies.",
        "circuit_breakers:",
        "  thresholds:",
        "  - {max_connections: 65536, max_pending_requests: 65536, max_requests: 65536,"
        " max_retries: 65536}",
        "typed_extension_protocol_options:",
        "  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:",
        f'    "@type": {TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions',
        f"    common_http_protocol_options: {{idle_timeout: {IDLE}s}}",
        "    explicit_http_config: {http_protocol_options: {}}",
    ]
    if document.health.path:
        up = [{"start": each, "end": each + 1} for each in document.health.up]
        check = {"path": document.health.path, "host": "localhost", "expected_statuses": up}
        again = f"{options.retrusted:g}s"
        rows += [
            "health_checks:",
            f"- {{timeout: 1s, interval: {again}, no_traffic_interval: {again},",
            "   unhealthy_threshold: 2, healthy_threshold: 1,",
            f"   http_health_check: {_json(check)}}}",
        ]
    yield from _resource(rows, "cluster.v3.Cluster")


def _watched(path: Path) -> str:
    return _json({"path_config_source": {"path": str(path)}})


def _servers(document: Document, addresses: Mapping[str, tuple[str, int]]) -> Iterator[str]:
    yield f"# Servers of the cluster {document.cluster}, view {document.view}. Generated."
    rows = ["cluster_name: sessionha", "endpoints:"]
    # Priorities: the next one is for when nobody in those before is healthy.
    for priority, tier in enumerate(_tiers(document)):
        rows += [f"- priority: {priority}", "  lb_endpoints:"]
        for server in tier:
            host, port = addresses[server.name]
            where = {"socket_address": {"address": host, "port_value": port}}
            row = {"endpoint": {"address": where}, "load_balancing_weight": server.weight}
            rows.append(f"  - {_json(row)}")
    yield from _resource(rows, "endpoint.v3.ClusterLoadAssignment")


def _tiers(document: Document) -> list[tuple[Server, ...]]:
    return [tier for tier in (document.ready, document.spares, document.draining) if tier]


def _routes(
    document: Document,
    addresses: Mapping[str, tuple[str, int]],
    keys: Keys,
    options: Options,
) -> Iterator[str]:
    yield (
        f"# Routes to the cluster {document.cluster}. Generated: `rds` in your envoy.yaml leads"
        " here."
    )
    told: dict[str, object] = {
        "cookie": document.cookie.name,
        "servers": {
            name: _joined(*addresses[each.name])
            for each in document.routable
            for name in each.names
        },
    }
    if keys:
        told["keys"] = {kid: key.hex() for kid, key in keys.items()}
    metadata = _json({"filter_metadata": {"envoy.filters.http.lua": told}})
    silence = f"{options.response_timeout:g}s"
    tries = (
        f"num_retries: {RETRIES}, retry_back_off: {{base_interval: 0.001s, max_interval: 0.01s}},"
        f" per_try_timeout: {silence}, host_selection_retry_max_attempts: {RETRIES},"
        " retry_host_predicate: [{name: envoy.retry_host_predicates.previous_hosts, typed_config:"
        f' {{"@type": {TYPES}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}}}],'
        " retry_priority: {name: envoy.retry_priorities.previous_priorities, typed_config:"
        f' {{"@type": {TYPES}.extensions.retry.priority.previous_priorities.v3'
        ".PreviousPrioritiesConfig, update_frequency: 2}}"
    )
    unsent, harmless = "connect-failure,refused-stream", "retriable-headers,reset-before-request"
    elsewhere = "retriable_headers: [{name: sessionha-retry, string_match: {prefix: elsewhere}}]"
    yield from _resource(
        [
            "name: sessionha",
            "virtual_hosts:",
            "- name: sessionha",
            '  domains: ["*"]',
            f"  request_body_buffer_limit: {BODY}",
            "  request_headers_to_remove: [sessionha-hops]",
            "  request_headers_to_add:",
            *_replaced("x-forwarded-for", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
            *_replaced("x-forwarded-host", "%REQ(:AUTHORITY)%"),
            "  response_headers_to_remove: [sessionha-retry]",
            "  routes:",
            "  # Websockets: repeated while nothing was sent, or where a server passes them on.",
            "  - match:",
            "      prefix: /",
            "      headers:",
            "      - {name: ':method', string_match: {exact: GET}}",
            "      - {name: upgrade, present_match: true}",
            "    # What the script is told: the cookie, who has which name, and the keys.",
            f"    metadata: &told {metadata}",
            "    route:",
            "      cluster: sessionha",
            "      timeout: 0s",
            "      idle_timeout: 3600s",
            "      upgrade_configs: [{upgrade_type: websocket}]",
            "      retry_policy:",
            "        {" + f"retry_on: '{unsent},retriable-headers', {elsewhere},",
            f"         {tries}" + "}",
            "  # What may run twice is repeated whatever happens.",
            "  - match:",
            "      prefix: /",
            "      headers:",
            "      - name: ':method'",
            "        string_match: {safe_regex: {regex: GET|HEAD|OPTIONS|TRACE|PUT|DELETE}}",
            "    metadata: *told",
            "    route: &repeated",
            "      cluster: sessionha",
            "      timeout: 0s",
            "      retry_policy:",
            "        {" + f"retry_on: '{unsent},{harmless},reset', {elsewhere},",
            f"         {tries}" + "}",
            "  - match: {prefix: /, headers: [{name: idempotency-key, present_match: true}]}",
            "    metadata: *told",
            "    route: *repeated",
            "  # Everything else: once it was sent, never again, whatever the answer is.",
            "  - match: {prefix: /}",
            "    metadata: *told",
            "    route:",
            "      cluster: sessionha",
            "      timeout: 0s",
            "      retry_policy:",
            "        {" + f"retry_on: '{unsent}',",
            f"         {tries}" + "}",
        ],
        "route.v3.RouteConfiguration",
    )


def _replaced(header: str, value: str) -> Iterator[str]:
    yield f'  - header: {{key: {header}, value: "{value}"}}'
    yield "    append_action: OVERWRITE_IF_EXISTS_OR_ADD"


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

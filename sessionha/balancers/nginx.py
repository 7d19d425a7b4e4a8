"""Configuration for nginx: a chain of upstreams in the cookie's order, without any module.

Each server is an upstream of its own: the server, and a `backup` that answers 598. Whether a
request may go to another server is so decided by nginx's own `proxy_next_upstream`, which never
repeats a POST that was sent; only where it went on to the backup does 598 lead to the next name. An
`error_page 502` would repeat everything, and hide the 502 of an application.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.resources import files as resources
from pathlib import Path
from typing import Final

import msgspec

from sessionha.balancers.base import File, Files, Keys, Options, one_scheme, verifying
from sessionha.balancers.document import Document, Server
from sessionha.errors import InvalidSettings

HOPS: Final = 5
"""Names of a cookie that are tried in their order; then any server. nginx allows ten internal
redirects, and the tiers after the names take four."""

NOWHERE: Final = 598
"""What the dead end answers: no status that an application or nginx has."""

LOOPBACK: Final = "127.0.0.1:8598"
"""Of the dead end. A unix socket would be left behind by a killed nginx and stop the next one."""

TIERS: Final = ("ready", "spares", "draining", "anybody")
"""Upstreams after the names. `anybody` is every member once more: trying is better than giving
up."""

KEEPALIVE: Final = 32
"""Idle connections a worker keeps to each server."""

ZONE: Final = "64k"
"""Shared memory in which nginx's processes tell each other who failed; nginx's least is 32k."""


class Nginx:
    """nginx 1.9 or later; to verify signatures also njs 0.7 or later."""

    place = Path("/etc/nginx/sessionha")
    verifies = False  # njs is no part of nginx itself
    check: tuple[str, ...] = ("nginx", "-t", "-q")
    reload: tuple[str, ...] = ("nginx", "-s", "reload")

    def files(self, document: Document, keys: Keys, options: Options) -> Files:
        """`http.conf`, `server.conf` and `proxy.conf`; with signatures verified two scripts.

        Raises:
            InvalidSettings: servers that speak https, or no keys.
        """
        if one_scheme(document) != "http":
            raise InvalidSettings(
                [
                    "nginx: the nodes' `url` are https. The chain has to pass the dead end as well,"
                    " which speaks plain http: let the nodes speak http on a private network"
                ]
            )
        keys = verifying(keys, options)
        found = {
            "http.conf": File("\n".join(_http(document, options)) + "\n"),
            "server.conf": File("\n".join(_server(options)) + "\n"),
            "proxy.conf": File("\n".join(_proxy(options)) + "\n"),
        }
        if keys:
            script = resources("sessionha.balancers").joinpath("verify.js")
            told = msgspec.json.format(
                msgspec.json.encode({kid: key.hex() for kid, key in keys.items()})
            ).decode()
            found["sessionha-keys.js"] = File(f"export default {told};\n", private=True)
            found["sessionha-verify.js"] = File(script.read_text(encoding="utf-8"))
        return found

    async def adopt(self, document: Document, keys: Keys, options: Options) -> bool:
        """nginx has no run-time API without a module or a subscription."""
        del document, keys, options
        return False


def _http(document: Document, options: Options) -> Iterator[str]:
    dead = options.loopback or LOOPBACK
    yield from (
        f"# Servers of the cluster {document.cluster}, view {document.view}.",
        "# Generated: include it in `http { }`, and server.conf in a `server { }`.",
        "",
        "# What a client brings: the cookie, or a header from one that keeps no cookies.",
        "map $http_sessionha_route $sessionha_cookie {",
        f"    default $cookie_{document.cookie.name};",
        '    "~." $http_sessionha_route;',
        "}",
        "",
        "# The names of its servers, the primary first, with ~ between them.",
        *_names(document, options),
        "",
        "# The first names, one by one.",
    )
    for hop in range(1, HOPS + 1):
        before = "[^~]+~" * (hop - 1)
        yield (
            f'map $sessionha_names $sessionha_name_{hop} {{ default ""; "~^{before}'
            f'(?<sessionha_part_{hop}>[^~]+)" $sessionha_part_{hop}; }}'
        )
    yield from (
        "",
        "# A name leads to an upstream only if it stands here. Draining is passed over.",
    )
    known = [f"    {_word(name)} {_upstream(s)};" for s in document.routable for name in s.names]
    for hop in range(1, HOPS + 1):
        yield f"map $sessionha_name_{hop} $sessionha_upstream_{hop} {{"
        yield "    default sessionha_nowhere;"
        yield from known
        yield "}"
    yield from (
        "map $sessionha_names $sessionha_first {",
        "    default $sessionha_upstream_1;",
        '    "" sessionha_ready;',
        "}",
        "",
        'map $http_upgrade $sessionha_connection { default upgrade; "" ""; }',
        "",
        "# The dead end of each upstream: who is sent here tries the next one.",
        f"upstream sessionha_nowhere {{ server {dead} max_fails=0; }}",
        f"server {{ listen {dead}; access_log off; client_max_body_size 0; return {NOWHERE}; }}",
        "",
    )
    for server in document.routable:
        yield from _one(_upstream(server), [server], dead, options)
    yield "# Clients that are nobody's yet, and those whose servers do not answer."
    yield from _one("sessionha_ready", document.ready, dead, options)
    yield from _one("sessionha_spares", document.spares, dead, options)
    yield from _one("sessionha_draining", document.draining, dead, options)
    yield from _one("sessionha_anybody", (*document.routable, *document.draining), "", options)


def _names(document: Document, options: Options) -> Iterator[str]:
    if options.verify:
        yield f'js_path "{options.place}";'
        yield "js_import sessionha from sessionha-verify.js;"
        yield "js_set $sessionha_names sessionha.names;"
        return
    expression = document.cookie.expression.replace("(", "(?<sessionha_list>", 1)
    yield "map $sessionha_cookie $sessionha_names {"
    yield '    default "";'
    yield f'    "~{expression}" $sessionha_list;'
    yield "}"


def _word(name: str) -> str:
    """A name as the key of a `map`, where some words mean something else."""
    return f"\\{name}" if name in ("default", "hostnames", "include", "volatile") else name


def _upstream(server: Server) -> str:
    return f"sessionha_node_{server.name}"


def _one(name: str, servers: Iterable[Server], dead: str, options: Options) -> Iterator[str]:
    trust = "max_fails=0"  # the last resort is always tried
    if dead:
        trust = f"max_fails=1 fail_timeout={max(1, round(options.retrusted))}s"  # whole seconds
    rows = [f"    server {s.address} weight={s.weight} {trust};" for s in servers]
    if dead:
        rows.append(f"    server {dead} max_fails=0{' backup' if rows else ''};")
    yield f"upstream {name} {{"
    yield f"    zone {name} {ZONE};"
    yield from rows
    yield f"    keepalive {KEEPALIVE};"
    yield "}"


def _server(options: Options) -> Iterator[str]:
    include = f'include "{options.place / "proxy.conf"}";'
    steps = [f"name_{hop}" for hop in range(2, HOPS + 1)] + list(TIERS)
    targets = [f"$sessionha_upstream_{hop}" for hop in range(2, HOPS + 1)]
    targets += [f"sessionha_{tier}" for tier in TIERS]
    following = [*steps[1:], ""]
    yield from (
        "# The affinity rule: the servers that the cookie names, in its order; then any.",
        "# For a part of the site copy `location /`, with its three lines, to another prefix.",
        "",
        "location / {",
        f"    {include}",
        f"    error_page {NOWHERE} = @sessionha_{steps[0]};",
        "    proxy_pass http://$sessionha_first;",
        "}",
    )
    for step, target, after in zip(steps, targets, following, strict=True):
        yield f"location @sessionha_{step} {{"
        yield f"    {include}"
        if after:
            yield f"    error_page {NOWHERE} = @sessionha_{after};"
        yield f"    proxy_pass http://{target};"
        yield "}"


def _proxy(options: Options) -> Iterator[str]:
    response = _time(options.response_timeout)
    yield from (
        "# How requests are passed on.",
        "proxy_http_version 1.1;",
        "proxy_set_header Host $http_host;",
        "proxy_set_header Upgrade $http_upgrade;",
        "proxy_set_header Connection $sessionha_connection;",
        "# Nobody's word about addresses is believed. Behind another proxy see `real_ip_header`.",
        "proxy_set_header X-Forwarded-For $remote_addr;",
        "proxy_set_header X-Forwarded-Proto $scheme;",
        "proxy_set_header X-Forwarded-Host $http_host;",
        'proxy_set_header X-Forwarded-Port "";',
        'proxy_set_header X-Forwarded-Prefix "";',
        'proxy_set_header Forwarded "";',
        "proxy_set_header X-Real-IP $remote_addr;",
        'proxy_set_header Sessionha-Hops "";',
        "proxy_hide_header Sessionha-Retry;",
        f"proxy_connect_timeout {_time(options.connect_timeout)};",
        "# Also how long a websocket may be silent. Whoever is later counts as dead for a second.",
        f"proxy_read_timeout {response};",
        f"proxy_send_timeout {response};",
        "# Without `non_idempotent`: what was sent and may not run twice is never repeated.",
        "proxy_next_upstream error timeout;",
        f"# So that {NOWHERE} leads on. No other answer of a server is touched.",
        "proxy_intercept_errors on;",
        "recursive_error_pages on;",
    )


def _time(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"

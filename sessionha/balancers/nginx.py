"""Configuration for nginx: a chain of upstreams in the cookie's order, without any module.

Each server is an upstream of its own: the server, and a `backup` that answers 598. Whether a
request may go to another server is so decided by nginx's own `proxy_next_upstream`, which never
repeats a POST that was sent; only where it went on to the backup does 598 lead to the next name. An
`error_page 502` would repeat everything, and hide the 502 of an application.

A reload closes the idle connections of clients, and a POST that comes on one at that moment fails.
So who is a member, and who drains, is no part of the configuration: empty files beside it say it,
which nginx looks for before it sends a request. Only a server that was not known needs a reload.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files as resources
from pathlib import Path
from typing import Final

import msgspec

from sessionha.balancers.base import File, Files, Keys, Options, one_scheme, verifying
from sessionha.balancers.document import Document, Server
from sessionha.errors import InvalidSettings
from sessionha.session.cookies import is_cookie_name

KEYS: Final = "sessionha-keys.js"
SCRIPT: Final = "sessionha-verify.js"

HOPS: Final = 4
"""Names of a cookie that are tried in their order; then any server. nginx allows ten internal
redirects; the tiers after the names take six, and a chain of its own (`KEYED`, `ONCE`) one."""

NOWHERE: Final = 598
"""What the dead end answers: no status that an application or nginx has."""

KEYED: Final = 597
"""Leads requests with an Idempotency-Key to a chain of their own; never leaves nginx."""

NOBODY: Final = "sessionha_nobody"
"""The upstream of a name that is no member's; always marked, so that nothing connects to it."""

ONCE: Final = 596
"""Leads requests with methods that nginx would repeat, and the rule does not, to a chain in which
nothing is repeated; never leaves nginx."""

JUDGED: Final = "GET HEAD OPTIONS TRACE PUT DELETE POST PATCH LOCK"
"""Methods of which nginx knows whether they may run twice. It repeats all others."""

LOOPBACK: Final = "127.0.0.1:8598"
"""Of the dead end. A unix socket would be left behind by a killed nginx and stop the next one."""

TIERS: Final = ("pool", "first", "last", "spares", "members", "anybody")
"""Where a request goes after the names: to one by the client's address, the first, the last that is
not away, so that of three all are tried; to any spare; to a member even if it drains; to whoever
answers, for trying is better than giving up."""

AWAY: Final = "away"
"""Suffix of the file that says: not for clients, for it drains or is no member."""

OUT: Final = "out"
"""Suffix of the file that says: no member."""

KEEPALIVE: Final = 32
"""Idle connections a worker keeps to each server."""

ZONE: Final = "64k"
"""Shared memory in which nginx's processes tell each other who failed; nginx's least is 32k."""


class Nginx:
    """nginx 1.11 or later; to verify signatures also njs 0.7 or later."""

    place = Path("/etc/nginx/sessionha")
    main = "http.conf"
    verifies = False  # njs is no part of nginx itself
    asks = False
    check: tuple[str, ...] = ("nginx", "-t", "-q")
    reload: tuple[str, ...] = ("nginx", "-s", "reload")

    def files(self, document: Document, keys: Keys, options: Options) -> Files:
        """`http.conf`, `server.conf`, `proxy.conf` and marks; two scripts if signatures are
        verified, and otherwise none.

        Raises:
            InvalidSettings: servers that speak https, no keys, or a `-` in the cookie's name.
        """
        if one_scheme(document) != "http":
            raise InvalidSettings(
                [
                    "nginx: the nodes' `url` are https. The chain has to pass the dead end as well,"
                    " which speaks plain http: let the nodes speak http on a private network"
                ]
            )
        if not is_cookie_name(document.cookie.name):
            raise InvalidSettings(
                [
                    f"nginx cannot name a cookie {document.cookie.name!r}: let `route_cookie` be of"
                    " letters, digits and `_`"
                ]
            )
        keys = verifying(keys, options)
        found = {
            self.main: File("\n".join(_http(document, options)) + "\n"),
            "server.conf": File("\n".join(_server(document, options)) + "\n"),
            "proxy.conf": File("\n".join(_proxy(options)) + "\n"),
            KEYS: File(None),
            SCRIPT: File(None),
            **dict(_marks(document)),
        }
        if keys:
            script = resources("sessionha.balancers").joinpath("verify.js")
            told = msgspec.json.format(
                msgspec.json.encode({kid: key.hex() for kid, key in keys.items()})
            ).decode()
            found[KEYS] = File(f"export default {told};\n", private=True)
            found[SCRIPT] = File(script.read_text(encoding="utf-8"))
        return found

    async def adopt(self, document: Document, keys: Keys, options: Options) -> bool:
        """nginx has no run-time API without a module or a subscription."""
        del document, keys, options
        return False


def _marks(document: Document) -> Iterator[tuple[str, File]]:
    for suffix in (AWAY, OUT):
        yield f"{NOBODY}.{suffix}", File("", live=True)
    for server in document.known:
        away, out = server.state != "up", server.state == "down"
        for suffix, there in ((AWAY, away), (OUT, out)):
            yield f"{_upstream(server)}.{suffix}", File("" if there else None, live=True)


def _http(document: Document, options: Options) -> Iterator[str]:
    dead = options.loopback or LOOPBACK
    servers = document.known
    yield from (
        f"# The servers of the cluster {document.cluster}.",
        options.line,
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
    yield from ("", "# A name leads to an upstream only if it stands here.")
    for hop in range(1, HOPS + 1):
        yield f"map $sessionha_name_{hop} $sessionha_upstream_{hop} {{"
        yield f"    default {NOBODY};"
        yield from (f"    {_word(name)} {_upstream(s)};" for s in servers for name in s.names)
        yield "}"
    yield from (
        "",
        "# The same server for all requests of a client that has no names yet.",
        'split_clients "$remote_addr $http_user_agent" $sessionha_pick {',
        *_shares([server for server in servers if not server.spare]),
        "}",
        "map $sessionha_names $sessionha_first {",
        "    default $sessionha_upstream_1;",
        '    "" $sessionha_pick;',
        "}",
        "# Websockets alone: inside of HTTP/2 there would be other requests, which nobody reads.",
        'map $http_upgrade $sessionha_upgrade { default ""; websocket websocket; }',
        'map $http_upgrade $sessionha_connection { default ""; websocket upgrade; }',
        "",
        "# Methods that nginx would repeat although they may not run twice.",
        "map $request_method $sessionha_once {",
        "    default 1;",
        *(f'    {method} "";' for method in JUDGED.split()),
        "}",
        "",
        "# The dead end of each upstream: who is sent here tries the next one.",
        f"upstream {NOBODY} {{ server {dead} max_fails=0; }}",
        f"server {{ listen {dead}; access_log off; client_max_body_size 0; return {NOWHERE}; }}",
        "",
    )
    for server in servers:
        yield from _one(_upstream(server), [server], dead, options)
    yield "# When the servers that a client names, or gets, do not answer."
    yield from _one("sessionha_spares", [s for s in servers if s.spare], dead, options)
    yield from _one("sessionha_anybody", servers, "", options)


def _shares(servers: Sequence[Server]) -> Iterator[str]:
    """Lines of `split_clients`: each server's part by weight, the last one the rest."""
    total = sum(server.weight for server in servers)
    for server in servers[:-1]:
        yield f"    {server.weight * 100 / total:.2f}% {_upstream(server)};"
    yield f"    * {_upstream(servers[-1]) if servers else NOBODY};"


def _names(document: Document, options: Options) -> Iterator[str]:
    if options.verify:
        yield f'js_path "{options.place}";'
        yield f"js_import sessionha from {SCRIPT};"
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


def _server(document: Document, options: Options) -> Iterator[str]:
    plain = f'include "{options.place / "proxy.conf"}";'
    keyed = [plain, "proxy_next_upstream error timeout non_idempotent;"]
    once = [plain, "proxy_next_upstream off;"]
    yield from (
        "# The affinity rule: the servers that the cookie names, in its order; then any.",
        "# For a part of the site copy `location /` with all that is in it to another prefix.",
        "",
        "location / {",
        f"    {plain}",
        f"    error_page {NOWHERE} = @sessionha_name_2;",
        f"    error_page {KEYED} = @sessionha_keyed_name_1;",
        f"    error_page {ONCE} = @sessionha_once_name_1;",
        f"    if ($http_idempotency_key) {{ return {KEYED}; }}",
        f"    if ($sessionha_once) {{ return {ONCE}; }}",
        *_unless_away(options, "$sessionha_first"),
        "    proxy_pass http://$sessionha_first;",
        "}",
        *_chain("sessionha_", 2, [plain], document, options),
        "",
        "# What was sent and may not run twice is never repeated: without `non_idempotent` nginx",
        "# repeats no POST, LOCK or PATCH. A request with an Idempotency-Key may run twice.",
        *_chain("sessionha_keyed_", 1, keyed, document, options),
        "",
        "# Other methods, which nginx would repeat: not even where a server refuses.",
        *_chain("sessionha_once_", 1, once, document, options),
    )


def _chain(
    prefix: str, first: int, including: Sequence[str], document: Document, options: Options
) -> Iterator[str]:
    """Named locations from the name number `first` to the last tier, each leading to the next."""
    hops = range(first, HOPS + 1)
    steps = [f"name_{hop}" for hop in hops] + list(TIERS)
    for step, after in zip(steps, [*steps[1:], ""], strict=True):
        yield f"location @{prefix}{step} {{"
        yield from (f"    {line}" for line in including)
        if after:
            yield f"    error_page {NOWHERE} = @{prefix}{after};"
        yield from _target(step, document, options)
        yield "}"


def _target(step: str, document: Document, options: Options) -> Iterator[str]:
    """Where one location sends a request."""
    ready = [server for server in document.known if not server.spare]
    if step.startswith("name_"):
        hop = step.removeprefix("name_")
        upstream = "$sessionha_first" if hop == "1" else f"$sessionha_upstream_{hop}"
        yield from _unless_away(options, upstream)
        yield f"    proxy_pass http://{upstream};"
    elif step == "pool":
        yield from _first("$sessionha_pick", ready, AWAY, options)
    elif step == "first":
        yield from _first(NOBODY, ready, AWAY, options)
    elif step == "last":
        yield from _first(NOBODY, ready[::-1], AWAY, options)
    elif step == "members":
        yield from _first(NOBODY, document.known, OUT, options)
    else:
        yield f"    proxy_pass http://sessionha_{step};"


def _unless_away(options: Options, upstream: str) -> Iterator[str]:
    yield f'    if (-f "{options.place}/{upstream}.{AWAY}") {{ return {NOWHERE}; }}'


def _first(wanted: str, servers: Iterable[Server], suffix: str, options: Options) -> Iterator[str]:
    """The one that is wanted if there is no such mark of it, else the first without one."""
    yield f"    set $sessionha_target {wanted};"
    marked = f'-f "{options.place}/$sessionha_target.{suffix}"'
    for server in servers:
        yield f"    if ({marked}) {{ set $sessionha_target {_upstream(server)}; }}"
    yield f"    if ({marked}) {{ return {NOWHERE}; }}"
    yield "    proxy_pass http://$sessionha_target;"


def _proxy(options: Options) -> Iterator[str]:
    response = _time(options.response_timeout)
    yield from (
        "# How requests are passed on. Who is away is looked up each time.",
        "open_file_cache off;",
        "proxy_http_version 1.1;",
        "proxy_set_header Host $http_host;",
        "proxy_set_header Upgrade $sessionha_upgrade;",
        "proxy_set_header Connection $sessionha_connection;",
        "# Nobody's word about addresses is believed. Behind another proxy see `real_ip_header`.",
        "proxy_set_header X-Forwarded-For $remote_addr;",
        "proxy_set_header X-Forwarded-Proto $scheme;",
        "proxy_set_header X-Forwarded-Host $http_host;",
        'proxy_set_header X-Forwarded-Port "";',
        'proxy_set_header X-Forwarded-Prefix "";',
        'proxy_set_header X-Forwarded-Protocol "";',
        'proxy_set_header X-Forwarded-Server "";',
        'proxy_set_header X-Forwarded-Ssl "";',
        'proxy_set_header Forwarded "";',
        "proxy_set_header X-Real-IP $remote_addr;",
        'proxy_set_header HTTP2-Settings "";',
        'proxy_set_header Sessionha-Hops "";',
        "proxy_hide_header Sessionha-Retry;",
        f"proxy_connect_timeout {_time(options.connect_timeout)};",
        "# Also how long a websocket may be silent. Whoever is later counts as dead for a second.",
        f"proxy_read_timeout {response};",
        f"proxy_send_timeout {response};",
        f"# So that {NOWHERE} leads on. No other answer of a server is touched.",
        "proxy_intercept_errors on;",
        "recursive_error_pages on;",
    )


def _time(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"

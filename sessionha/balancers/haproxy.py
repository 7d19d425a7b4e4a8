"""Configuration for HAProxy: a chain of backends in the cookie's order, without Lua.

HAProxy repeats a failed request where its load balancing leads. So in the backend that looks at the
cookie the servers have no weight: a rule alone reaches them, and all that can be chosen after a
failure are two exits. They lead through a socket back into HAProxy, where the name that was tried
is dropped, and the next one has its turn. *Two* exits, because HAProxy waits a second before it
repeats where there is no choice.

A request that must not run twice begins with an exit, so that it arrives on a connection of its
own. Then HAProxy answers 502 when a server dies with it: a client whose connection had requests
before is hung up on instead, which invites it to send the request again (R14).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from sessionha.balancers.base import File, Files, Keys, Options, one_scheme, verifying
from sessionha.balancers.document import Document, Server
from sessionha.balancers.haproxy_socket import Entry, Unusable, bring

CONFIGURATION: Final = "sessionha.cfg"
NAMES: Final = "sessionha-servers.map"
KEYS: Final = "sessionha-keys.map"

LOOPBACK: Final = "abns@sessionha"
"""Where the exits lead: a socket without a file, which a `chroot` of HAProxy does not hide."""

MARK: Final = "."
"""No cookie has it as a name: under it the names have the digest of what surrounds the servers, so
that it is known whether the running HAProxy has this very configuration."""

HEAVIEST: Final = 256
"""HAProxy's highest weight, given to the heaviest server: an exit has 1, and is chosen by chance
once in some hundred new clients, for whom it is a longer way to the same servers."""

EXITS: Final = ("next_1", "next_2")

REPEATABLE: Final = "GET HEAD OPTIONS TRACE PUT DELETE"
"""Methods that may run twice (RFC 9110, 9.2.2)."""

RETRIES: Final = 6
"""A request that kills every server it is sent to must not visit them all; but a few may refuse
at once, who cost nothing."""

REPEATED_BYTES: Final = 12_000
"""Of a body. HAProxy repeats what its buffer has whole when it begins to send: 16 KiB with head."""

LAST_RETRIES: Final = 9
"""Where most servers are known to be dead: a connection that is refused costs nothing."""

CHAINED, READY, SPARES, LAST = "sessionha", "sessionha_ready", "sessionha_spares", "sessionha_last"


class HAProxy:
    """HAProxy 2.6 or later."""

    place = Path("/etc/haproxy")
    main = CONFIGURATION
    verifies = True
    asks = True
    check: tuple[str, ...] = (
        *("haproxy", "-c", "-q", "-f", "/etc/haproxy/haproxy.cfg"),
        *("-f", f"/etc/haproxy/{CONFIGURATION}"),
    )
    reload: tuple[str, ...] = ("systemctl", "reload", "haproxy")

    def files(self, document: Document, keys: Keys, options: Options) -> Files:
        """The configuration, the names that cookies may have, and with signatures verified the
        keys.

        Raises:
            InvalidSettings: some servers speak https and some do not, or there are no keys.
        """
        keys = verifying(keys, options)
        surroundings = _Surroundings(document, options, one_scheme(document) == "https")
        found = {
            CONFIGURATION: File(surroundings.text(document)),
            NAMES: File(_map(_names(document, surroundings))),
            KEYS: File(None),
        }
        if keys:
            found[KEYS] = File(_map(_secrets(keys)), private=True)
        return found

    async def adopt(self, document: Document, keys: Keys, options: Options) -> bool:
        """By the socket of the run-time API, when there is one, and nothing changed but servers
        (with IP addresses, and without https), names and keys."""
        keys = verifying(keys, options)
        surroundings = _Surroundings(document, options, one_scheme(document) == "https")
        if not options.socket or surroundings.encrypted:
            return False
        maps = {str(options.place / NAMES): _names(document, surroundings)}
        if keys:
            maps[str(options.place / KEYS)] = _secrets(keys)
        try:
            await bring(options.socket, MARK, maps, dict(_backends(document, surroundings)))
        except Unusable:
            return False
        return True


def _names(document: Document, surroundings: _Surroundings) -> Mapping[str, str]:
    known = {name: server.name for server in document.routable for name in server.names}
    return {MARK: surroundings.digest, **known}


def _secrets(keys: Keys) -> Mapping[str, str]:
    return {kid: base64.b64encode(key).decode() for kid, key in keys.items()}


def _map(entries: Mapping[str, str]) -> str:
    return "".join(f"{key} {value}\n" for key, value in entries.items())


def _backends(document: Document, around: _Surroundings) -> Iterator[tuple[str, dict[str, Entry]]]:
    """The servers of each backend that has some."""
    heaviest = max((each.weight for each in document.known), default=1)

    def entry(server: Server, serving: bool, checks: str = around.checks) -> Entry:
        weight = max(1, server.weight * HEAVIEST // heaviest) if serving else 0
        return Entry(server.host, server.port, weight, checks)

    up = document.routable
    yield CHAINED, {each.name: entry(each, False) for each in document.known}
    yield READY, {each.name: entry(each, each in up) for each in document.known if not each.spare}
    yield SPARES, {each.name: entry(each, each in up) for each in document.known if each.spare}
    yield LAST, {each.name: entry(each, True, "") for each in (*up, *document.draining)}


class _Surroundings:
    """Everything in the configuration that does not depend on the servers."""

    def __init__(self, document: Document, options: Options, encrypted: bool) -> None:
        self.encrypted = encrypted
        self._document = document
        self._options = options
        again = _time(options.retrusted)
        self.checks = (
            f"check inter {again} fastinter {_time(options.retrusted / 5)} fall 2 rise 1"
            " observe layer4 error-limit 1 on-error mark-down"
        )
        self.digest = hashlib.sha256("\n".join(self._lines({})).encode()).hexdigest()[:16]

    def text(self, document: Document) -> str:
        """The configuration with these servers."""
        title = f"# Servers of the cluster {document.cluster}, view {document.view}."
        return (
            f"{title}\n{self._options.line}\n"
            + "\n".join(self._lines(dict(_backends(document, self))))
            + "\n"
        )

    def _lines(self, backends: Mapping[str, Mapping[str, Entry]]) -> Iterator[str]:
        yield from (
            "# Generated: start HAProxy with this file after yours, and say",
            f"# `default_backend {CHAINED}` in your frontends.",
            "",
            *self._defaults(),
            "",
            "# The servers that the cookie names, one by one. A rule alone reaches a server here;",
            "# what failed leaves by an exit, and comes back without the first name.",
            f"backend {CHAINED} from sessionha",
            "    balance roundrobin",
            *self._chained(),
            *self._servers(CHAINED, backends),
            *self._exits(),
            "",
            "frontend sessionha_next from sessionha",
            f"    bind {self._loopback} accept-proxy",
            "    http-request set-var(txn.sessionha_next) bool(true)",
            "    http-request set-header x-sessionha-names"
            " %[req.fhdr(x-sessionha-names),field(2,~,0)]",
            f"    use_backend {CHAINED} if {{ req.fhdr(x-sessionha-names) -m len gt 0 }}",
            "    # The exits are always up.",
            f"    use_backend {READY} if {{ nbsrv({READY}) gt {len(EXITS)} }}",
            f"    use_backend {SPARES} if {{ nbsrv({SPARES}) gt {len(EXITS)} }}",
            f"    default_backend {LAST}",
        )
        told = {
            READY: "Clients that are nobody's yet, and those whose servers do not answer.",
            SPARES: "The same, when none of those is up.",
            LAST: "Whoever is a member, when nobody is up: trying is better than giving up.",
        }
        for name, words in told.items():
            yield from (
                "",
                f"# {words}",
                f"backend {name} from sessionha",
                "    balance roundrobin",
                *_repeating(),
                *(_cleaning() if name == READY else ()),
                *([f"    retries {LAST_RETRIES}"] if name == LAST else []),
                *self._servers(name, backends),
                *(self._exits() if name != LAST else ()),
            )

    @property
    def _loopback(self) -> str:
        return self._options.loopback or LOOPBACK

    def _defaults(self) -> Iterator[str]:
        options, health = self._options, self._document.health
        response = _time(options.response_timeout)
        yield from (
            "defaults sessionha",
            "    mode http",
            f"    timeout connect {_time(options.connect_timeout)}",
            f"    timeout client {response}",
            f"    timeout server {response}",
            "    timeout tunnel 1h  # how long a websocket may be silent",
            "    timeout http-request 10s",
            "    timeout check 1s",
            "    # What may run twice is repeated whatever happens, the rest when it was not sent.",
            "    retry-on conn-failure empty-response response-timeout",
            "    option redispatch 1",
            "    option abortonclose",
            f"    retries {RETRIES}",
        )
        if health.path:
            yield "    option httpchk"
            yield f"    http-check send meth GET uri {health.path} ver HTTP/1.1 hdr host localhost"
            yield f"    http-check expect rstatus ^({'|'.join(map(str, health.up))})$"

    def _chained(self) -> Iterator[str]:
        cookie, options = self._document.cookie, self._options
        yield from (
            *_repeating(),
            *_cleaning(),
            "    # What a client brings: one cookie, or a header from who keeps no cookies.",
            f"    http-request set-var(txn.sessionha_cookie) req.cook({cookie.name})"
            f" if !again {{ req.cook_cnt({cookie.name}) eq 1 }}",
            "    http-request set-var(txn.sessionha_cookie) req.fhdr(sessionha-route)"
            " if !again { req.fhdr(sessionha-route) -m found }",
            f"    acl written var(txn.sessionha_cookie) -m reg '{cookie.expression}'",
            f"    acl written_short var(txn.sessionha_cookie) -m len le {cookie.most_characters}",
        )
        if options.verify:
            yield from (
                "    # HMAC-SHA256 over all before the last dot; the cookie says with which key.",
                "    http-request set-var(txn.sessionha_key) var(txn.sessionha_cookie),field(4,.),"
                f"map_str({options.place / KEYS}) unless again",
                "    http-request set-var(txn.sessionha_mac) var(txn.sessionha_cookie),"
                "field(1,.,4),hmac(sha256,txn.sessionha_key),ub64enc unless again",
                "    http-request set-var(txn.sessionha_told) var(txn.sessionha_cookie),field(5,.)"
                " unless again",
                "    acl signed var(txn.sessionha_mac),secure_memcmp(txn.sessionha_told)",
            )
        signed = " signed" if options.verify else ""
        yield from (
            "    http-request set-header x-sessionha-names"
            f" %[var(txn.sessionha_cookie),field(2,.)] if !again written written_short{signed}",
            "    # What must not run twice leaves by an exit at once, which drops this `-`.",
            "    http-request set-header x-sessionha-names -~%[req.fhdr(x-sessionha-names)]"
            " if !again !repeatable { req.fhdr(x-sessionha-names) -m found }",
            "    # A name leads to a server only if the map has it. Draining ones are not there.",
            "    http-request set-var(txn.sessionha_server) req.fhdr(x-sessionha-names),"
            f"field(1,~),map_str({options.place / NAMES})",
            "    use-server %[var(txn.sessionha_server)] if { var(txn.sessionha_server) -m found }",
        )

    def _servers(self, backend: str, backends: Mapping[str, Mapping[str, Entry]]) -> Iterator[str]:
        for name, entry in backends.get(backend, {}).items():
            yield f"    server {name} {entry.line}{self._encryption(entry.host)}"

    def _encryption(self, host: str) -> str:
        if not self.encrypted:
            return ""
        return f" ssl verify required ca-file @system-ca verifyhost {host} sni str({host})"

    def _exits(self) -> Iterator[str]:
        # Without idle connections: what comes back is the first request of its connection.
        for name in EXITS:
            yield f"    server {name} {self._loopback} send-proxy-v2 weight 1 pool-max-conn 0"


def _repeating() -> Iterator[str]:
    yield f"    acl repeatable method {REPEATABLE}"
    yield "    acl repeatable req.hdr(idempotency-key) -m found"
    yield "    http-request disable-l7-retry unless repeatable"
    yield (
        "    http-request wait-for-body time 10s"
        f" if repeatable {{ req.hdr_val(content-length) 1:{REPEATED_BYTES} }}"
    )


def _cleaning() -> Iterator[str]:
    """Where requests of clients arrive: what only routers may say."""
    yield "    acl again var(txn.sessionha_next) -m bool"
    yield "    http-request del-header x-sessionha-names unless again"
    yield "    http-request del-header sessionha-hops unless again"
    # Websockets alone: inside of HTTP/2 there would be other requests, which nobody reads.
    yield "    acl websocket req.fhdr(upgrade) -i websocket"
    yield "    acl upgrades req.fhdr_cnt(upgrade) gt 1"
    yield "    http-request del-header upgrade if !again !websocket"
    yield "    http-request del-header upgrade if !again upgrades"
    yield "    http-request del-header http2-settings unless again"
    yield "    http-response del-header sessionha-retry"


def _time(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"

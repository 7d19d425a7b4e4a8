"""Every setting, once: its name, type, default and meaning; how they are read and checked.

`Settings` is the table: one field a row. A value comes from a keyword, else from the environment
variable `SESSIONHA_<NAME>`, else from the table `[cluster]` of the TOML file that `config` names,
else it is the default. All mistakes are reported at once.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar

from sessionha.discovery.source import Source, is_source, read_source
from sessionha.errors import InvalidSettings
from sessionha.identity import is_name
from sessionha.keys import hkdf, read_secrets, weaknesses
from sessionha.kinds import (
    ADDRESS,
    COOKIE_NAME,
    DEFAULT_POLICY,
    DURATION,
    ENGINE_TYPES,
    HEALTH_PATH,
    INTERVAL,
    NAME,
    NODES,
    PATH,
    POLICY,
    SECRETS,
    TEXT,
    VIRTUAL,
    Kind,
    PolicyWord,
    choice,
    count,
    show_nodes,
    size,
)
from sessionha.tables import TableFile
from sessionha.topology.description import Description, same_host
from sessionha.view import EngineAddress
from sessionha.virtual import VirtualServers

ENVIRONMENT: Final = "SESSIONHA_"
ARGUMENTS: Final = (
    "secret_key", "session_cookie", "max_age", "path", "same_site", "https_only", "domain",
    "partitioned", "exclude", "on_error",
)  # fmt: skip
"""What the middleware takes beside settings: it belongs to the code, and not to a deployment."""

LIVE: Final = (
    "nodes",
    "secret",
    "secret_file",
    "url",
    "zone",
    "admission",
    "backups",
    "commit_timeout",
    "acquire_timeout",
    "heal_rate",
    "heal_policy",
    "session_bytes",
    "elements",
    "drill",
    "rebalance",
)
"""What takes effect without a restart, besides the `[[node]]` tables: it is read whenever it is
needed. Everything else is part of something that was built at the start."""

INSECURE_LOOPBACK: Final = "insecure-loopback"
PEER_PORT: Final = 7946
ADMIN_PORT: Final = 7947
T = TypeVar("T")


# --- the table ------------------------------------------------------------------------------------


class Row(NamedTuple):
    """What the table says of one setting."""

    kind: Kind[Any]
    meaning: str
    shown: str
    """The default in words, where it depends on others."""


def _row(kind: Kind[T], default: T, meaning: str, shown: str = "", *, hidden: bool = False) -> T:
    """One row. The type checker sees the default, the dataclass a field that carries the row."""
    row = Row(kind, meaning, shown)
    made: T = field(default=default, repr=not hidden, metadata={"row": row})
    return made


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of one engine: complete, checked, and never changed. Made by `load`."""

    config: Path | None = _row(
        PATH, None, "TOML file with the tables `[cluster]` (these settings) and `[[node]]`."
    )
    cluster: str = _row(NAME, "default", "Cluster ID: peers of another cluster are refused.")
    node: str = _row(
        NAME,
        "",
        "Node ID, unique in the cluster and the same after a restart.",
        "the host's name",
    )
    nodes: str = _row(
        NODES,
        "",
        "The cluster's nodes with the addresses of their peer listeners, the same order on"
        " every node: `n1=http://10.0.0.1:7946,n2=http://10.0.0.2:7946`. Or where to find them:"
        " `dns://shop:7946` (A and AAAA records), `dns://_peer._tcp.shop` (SRV records; with"
        " `?server=10.0.0.10:53` another DNS server is asked than the machine's), `redis://…` and"
        " `rediss://…`.",
        hidden=True,
    )
    secret: tuple[bytes, ...] = _row(
        SECRETS,
        (),
        "Cluster secret of at least 32 random bytes, as `sessionha secret` prints one. Of several"
        " the first signs and all are accepted, so secrets can be exchanged without a stop."
        " Required with peers; `insecure-loopback` is accepted where every address is a loopback"
        " address.",
        hidden=True,
    )
    secret_file: Path | None = _row(
        PATH,
        None,
        "File with the cluster secrets, one a line; read at the start, and by `sessionha reload`.",
    )
    listen: str = _row(
        ADDRESS,
        "",
        "Where this node listens for its peers. Never the application's public port.",
        f"`0.0.0.0:{PEER_PORT}` with peers, else off",
    )
    advertise: str = _row(
        ADDRESS,
        "",
        "Where peers reach this node.",
        "its address in `nodes`, else `listen`, else the host's first address",
    )
    url: str = _row(
        TEXT,
        "",
        "Where routers reach this node's application, such as `http://10.0.0.1:8000`; of an engine"
        " that is described with an address of its own, that one.",
        "`url` of the node's `[[node]]` table; without, routers send it nothing",
    )
    zone: str = _row(
        TEXT,
        "",
        "Where this node, or router, is: copies go to another zone first, new clients to their"
        " router's.",
        "`zone` of the node's `[[node]]` table",
    )
    admin: str = _row(
        ADDRESS,
        "",
        "Where metrics and administration are served, for the whole node.",
        f"`127.0.0.1:{ADMIN_PORT}` with peers, else off",
    )
    store: str = _row(
        TEXT,
        "",
        "`memory` (private to one process) or a directory that the node's engines share.",
        "shared memory, else a writable directory",
    )
    store_size: int = _row(
        size(2**20),
        256 * 2**20,
        "Most bytes the store takes; new data is refused at 80 % of it.",
    )
    state_dir: Path | None = _row(
        PATH,
        None,
        "Directory on a disk for what must survive a reboot: the votes of this node, where"
        " `consistency` is `quorum`.",
        "`/var/lib/sessionha` or `~/.local/state/sessionha`",
    )
    engine_type: str = _row(
        NAME,
        "web",
        "Type of the engines of a node whose `[[node]]` table lists none; routers can be told"
        " which type serves a path.",
        "`web`; `type` of the engine in `engines` that has this process's `url`",
    )
    virtual_server: VirtualServers = _row(
        VIRTUAL,
        VirtualServers(),
        "Application or tenant: sessions of different ones are apart. One name for all requests, or"
        " a name for each host and path: `shop.example=shop,*.blog.example=blog,/admin=admin`;"
        " `*=NAME` for the rest, else `default`.",
    )
    backups: int = _row(
        count(0, 7),
        1,
        "Copies of a session on other nodes that a change waits for (k).",
        "1; 2 from four configured servers",
    )
    admission: str = _row(
        choice("static-only", "dynamic"),
        "static-only",
        "Who may join: only nodes that are written down, or everybody who has the cluster secret.",
        "`static-only`; `dynamic` where nodes are found",
    )
    min_copies: int = _row(
        count(0, 7),
        0,
        "With fewer copies than this a change is answered with 503.",
        "0; 1 where `consistency` is `quorum` and three servers are configured, or more",
    )
    consistency: str = _row(
        choice("available", "quorum"),
        "available",
        "What a partition does: in `available` each side goes on serving, in `quorum` only the one"
        " that has a majority of the configured nodes.",
        "`quorum` where three nodes are written down, or more; else `available`",
    )
    reads: str = _row(
        choice("local", "confirmed"),
        "local",
        "`local`: a session is read from the primary's memory, never older than its client has"
        " seen. `confirmed`: every copy is asked first whether the primary still is one.",
    )
    concurrency: str = _row(
        choice(
            "merge",
            "serialize",
            refused={
                "reject": "conflicts are not refused in this version; `merge` keeps changes of"
                " different elements, `serialize` lets requests of one session take turns"
            },
        ),
        "merge",
        "Requests of one session at the same time: `merge` keeps the changes of all, element by"
        " element; `serialize` lets one begin when the one before has its response ready.",
    )
    heartbeat: float = _row(INTERVAL, 0.25, "How often a member asks the members it watches.")
    suspect_after: float = _row(
        INTERVAL, 1.0, "A member that is silent for so long is suspected to be dead."
    )
    confirm_after: float = _row(
        INTERVAL, 0.5, "How long another member may take to confirm a suspicion."
    )
    discovery_time: float = _row(
        DURATION, 2.0, "How long a starting node looks for a cluster before it forms its own."
    )
    trust_refused: str = _row(
        choice("same-host", "always"),
        "same-host",
        "When a refused connection proves at once that a node is dead: for addresses of the same"
        " host, or always (where no firewall and no proxy refuses in the node's place).",
    )
    commit_timeout: float = _row(
        INTERVAL, 2.0, "How long a change waits for its backups before 503; outcome unknown."
    )
    acquire_timeout: float = _row(
        INTERVAL, 3.0, "How long a request waits for its session before 503; nothing changed."
    )
    quorum_timeout: float = _row(
        INTERVAL,
        1.0,
        "How long a request that needs its session waits for this node to hear a majority before"
        " 503, where `consistency` is `quorum`.",
    )
    heal_after: float = _row(
        DURATION,
        30.0,
        "How long a dead node may stay away before its copies are made elsewhere; 0: at once,"
        " `never`: by hand.",
    )
    heal_policy: str = _row(
        choice("wait", "urgent"),
        "wait",
        "What happens meanwhile to a session that has one copy left: it waits like the others, or"
        " (`urgent`) gets a temporary copy at once, without a write.",
    )
    heal_rate: int = _row(
        size(64 * 2**10),
        16 * 2**20,  # 1 GiB in a minute, for a seventh of a core at either end
        "Bytes a second that a node sends at most when it makes missing copies; requests come first"
        " in any case.",
    )
    rebalance: int = _row(
        count(0, 65536),
        50,  # about 5 % of a core where sessions have 4 KB
        "How many copies of idle sessions a node moves in a second, at most, to spread them evenly"
        " after a node joined; 0: none.",
    )
    drill: int = _row(
        count(0, 1024),
        10,  # 100,000 copies in three hours, for 0.1 % of a core where sessions have 4 KB
        "How many of the copies that it keeps for others a node verifies in a second, at most; 0:"
        " none.",
    )
    forget_after: float = _row(
        DURATION,
        0.0,
        "How long a request is refused because an absent node may hold its session.",
        "`heal_after`; where `consistency` is `quorum`, at least 10 minutes",
    )
    drain_timeout: float = _row(
        DURATION,
        20.0,
        "How long a node that stops may take to hand its sessions over; less than the server's own"
        " grace period.",
    )
    drain_delay: float = _row(
        DURATION,
        4.0,  # two checks of a balancer that looks every two seconds, as HAProxy does
        "How long a node that stops answers `/readyz` with 404, and requests as before, until it"
        " hands its sessions over: two checks of your balancer.",
    )
    idle_timeout: float = _row(INTERVAL, 1800.0, "A session that is not used for so long ends.")
    lifetime: float = _row(
        DURATION, 43200.0, "A session ends so long after its start, used or not; `never`: no end."
    )
    route_cookie: str = _row(
        COOKIE_NAME,
        "hsr",
        "Name of the cookie that tells routers and nodes where the client's sessions are.",
    )
    policy: tuple[PolicyWord, ...] = _row(
        POLICY,
        DEFAULT_POLICY,
        "How `sessionha router` chooses a node for a new client: each word leaves the best of those"
        " that the words before it left. `zone`: its own zone's, while one is ready; `least-load`:"
        " with the fewest requests in flight for their weight; then by turns, `weighted` or"
        " `round-robin`, or by the client's address, `hash`.",
    )
    engine_types: tuple[tuple[str, str], ...] = _row(
        ENGINE_TYPES,
        (),
        "Paths for which `sessionha router` asks for engines of a type: `/api=api` for `/api` and"
        " what is below it, `api` for every path.",
        "none: any engine",
    )
    session_in: str = _row(
        choice("cookies", "headers", "both"),
        "cookies",
        "Where clients carry their sessions. `both`: those that send the header `Sessionha-Token`,"
        " in headers; `headers`: all, and no cookie is read or set.",
    )
    health_path: str = _row(
        HEALTH_PATH,
        "",
        "Where the application's port answers `healthz` and `readyz`, for instance `/`.",
        "off",
    )
    session_bytes: int = _row(size(1024), 64 * 1024, "Most bytes of one session.")
    elements: int = _row(count(1, 65536), 256, "Most elements (top-level keys) of one session.")
    depth: int = _row(count(1, 64), 16, "How deep values of a session may be nested.")
    session_requests: int = _row(
        count(1, 65536),
        128,  # as many as one HTTP/2 connection commonly carries: a browser's page needs no more
        "Most requests and websockets of one session at the same time, in one process; what comes"
        " beyond is answered with 503.",
    )

    description: Description = field(default_factory=Description, repr=False)
    """The nodes that are written down, in `nodes` or in `[[node]]` tables; without: none."""

    discovery: Source | None = field(default=None, repr=False)
    """Where the nodes are found that are not written down."""

    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Where each value came from, for `explain`."""

    source: Callable[[], Settings] | None = field(default=None, repr=False, compare=False)
    """Reads them again."""

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, /, **keywords: object) -> Settings:
        """The settings of this process; a keyword that is None counts as not given.

        Raises:
            InvalidSettings: every mistake found, each with its setting, value and remedy.
        """
        return _load(os.environ if environ is None else environ, keywords, member=True)

    @classmethod
    def observe(cls, environ: Mapping[str, str] | None = None, /, **keywords: object) -> Settings:
        """The settings of a router or a command: no node of the cluster, listens for nobody.

        Raises:
            InvalidSettings: as `load`.
        """
        return _load(os.environ if environ is None else environ, keywords, member=False)

    def reloaded(self) -> Settings:
        """The same sources read again: keywords and environment are as they were, files may have
        changed.

        Raises:
            InvalidSettings: every mistake found.
        """
        return self.source() if self.source is not None else self

    @property
    def own_engine(self) -> EngineAddress | None:
        """The engine of the node's description whose address is this process's `url`, if one is."""
        described = self.description.node(self.node)
        if described is None or not self.url:
            return None
        url = self.url.rstrip("/")
        return next((engine for engine in described.engines if engine.url == url), None)

    @property
    def has_peers(self) -> bool:
        """Whether this node listens for others."""
        return bool(self.listen)

    @property
    def has_nodes(self) -> bool:
        """Whether a cluster is configured: nodes are written down, or found."""
        return bool(self.description.nodes or self.discovery)

    @property
    def insecure_loopback(self) -> bool:
        """Whether the cluster does without a secret because it never leaves this host."""
        return self.secret == (INSECURE_LOOPBACK.encode(),)

    def keys(self, label: bytes) -> tuple[bytes, ...]:
        """A 32-byte key for each secret, for the use `label` (sessionha.keys); the first signs."""
        return tuple(hkdf(secret, label) for secret in self.secret)

    def explain(self) -> list[Explained]:
        """Every setting with its value and where it came from; secrets only as `set`."""
        told = self._told_by_tables()
        return [
            Explained(name, told[name], f"file {self.config}, [[node]]")
            if told.get(name)
            else Explained(
                name, _shown(row, getattr(self, name)), self.origins.get(name, "default")
            )
            for name, row, _ in table()
        ]

    def _told_by_tables(self) -> dict[str, str]:
        """What the `[[node]]` tables say in the place of a setting."""
        found = self.description
        if self.nodes or not found.nodes:
            return {}
        told = {"nodes": ",".join(f"{node}=http://{at}" for node, at in found.addresses.items())}
        mine = found.node(self.node)
        if mine is not None:
            told |= {"url": "" if self.url else mine.url, "zone": "" if self.zone else mine.zone}
        return told


class Explained(NamedTuple):
    """One setting as a person reads it."""

    name: str
    value: str
    origin: str


def table() -> list[tuple[str, Row, str]]:
    """Every setting in order: its name, its row and its default in words."""
    return [(f.name, f.metadata["row"], _default_shown(f)) for f in fields(Settings) if _is_row(f)]


def markdown() -> str:
    """The reference of all settings, as `docs/settings.md` holds it."""
    rows = [
        f"| `{name}` | {row.kind.name} | {default or '–'} | {row.meaning} |"
        for name, row, default in table()
    ]
    rules = [f"- {relation.meaning}." for relation in RELATIONS]
    live = ", ".join(f"`{name}`" for name in LIVE)
    again = ["", "## Read again by `sessionha reload`", "", f"The `[[node]]` tables, and {live}."]
    return "\n".join([_PREFACE, *rows, *again, "", "## Checked together", "", *rules, ""])


_PREFACE: Final = """\
# Settings

A value comes from the first of: a keyword in the application, the environment variable
`SESSIONHA_<NAME>`, the table `[cluster]` of the TOML file that `config` names, the default. An
unknown name is an error that suggests the nearest; all mistakes are reported at once, at start.
`sessionha config` prints every value and where it came from.

A *duration* is a number of seconds or text such as `250ms`, `30s`, `5min`, `12h`, `14d`, `never`; a
*size* is a number of bytes or text such as `64KiB`, `256MiB`, `1GiB`; a *name* has 1 to 64 letters,
digits, `.`, `_` or `-`.

This page is written by `make docs` from the table in `sessionha/settings.py`.

| name | type | default | meaning |
|---|---|---|---|"""


QUORUM_FORGETS: Final = 600.0
"""Seconds for which an absent node's sessions are awaited by default where a majority decides:
what it may hold is newer than what is there, and an operator can say sooner that it is lost."""


# --- relations ------------------------------------------------------------------------------------


class Relation(NamedTuple):
    """What must hold between settings."""

    names: tuple[str, ...]
    holds: Callable[[Settings], bool]
    meaning: str


def _patient(settings: Settings, timeout: float) -> bool:
    return timeout > settings.suspect_after + settings.confirm_after


RELATIONS: Final = (
    Relation(
        ("suspect_after", "heartbeat"),
        lambda s: s.suspect_after >= 3 * s.heartbeat,
        "`suspect_after` must be at least three times `heartbeat`: one lost answer is no death",
    ),
    Relation(
        ("commit_timeout", "suspect_after", "confirm_after"),
        lambda s: _patient(s, s.commit_timeout),
        "`commit_timeout` must be longer than `suspect_after` + `confirm_after`: a change outlives"
        " the death of a backup",
    ),
    Relation(
        ("acquire_timeout", "suspect_after", "confirm_after"),
        lambda s: _patient(s, s.acquire_timeout),
        "`acquire_timeout` must be longer than `suspect_after` + `confirm_after`: a request"
        " outlives the death of its primary",
    ),
    Relation(
        ("heal_after", "suspect_after", "confirm_after"),
        lambda s: s.heal_after == 0 or _patient(s, s.heal_after),
        "`heal_after` must be 0 or longer than `suspect_after` + `confirm_after`",
    ),
    Relation(
        ("forget_after", "heal_after"),
        lambda s: s.forget_after >= s.heal_after,
        "`forget_after` must not be shorter than `heal_after`: a node is awaited as long as its"
        " seats are",
    ),
    Relation(
        ("drain_timeout", "drain_delay", "commit_timeout"),
        lambda s: s.drain_timeout > s.drain_delay + s.commit_timeout,
        "`drain_timeout` must be longer than `drain_delay` + `commit_timeout`: a stop lets routers"
        " notice, and changes finish",
    ),
    Relation(
        ("lifetime", "idle_timeout"),
        lambda s: s.lifetime >= s.idle_timeout,
        "`lifetime` must not be shorter than `idle_timeout`",
    ),
    Relation(
        ("quorum_timeout", "acquire_timeout", "consistency"),
        lambda s: s.consistency != "quorum" or s.quorum_timeout <= s.acquire_timeout,
        "`quorum_timeout` must not be longer than `acquire_timeout`",
    ),
    Relation(
        ("consistency", "nodes"),
        lambda s: s.consistency != "quorum" or not s.listen or len(s.description.nodes) > 1,
        "`consistency` = `quorum` needs nodes that are written down, in `nodes` or in `[[node]]`"
        " tables: a majority is one of them, better of three than of two",
    ),
    Relation(
        ("consistency", "nodes"),
        lambda s: s.consistency == "quorum" or s.description.servers == s.description.nodes,
        "a node with the role `witness` only votes, and where `consistency` is `available` nobody"
        " does: give it another role, or set `quorum`",
    ),
    Relation(
        ("admission", "nodes"),
        lambda s: s.admission == "dynamic" or s.discovery is None,
        "`admission` must be `dynamic` where nodes are found and not written down: everybody would"
        " be refused",
    ),
    Relation(
        ("min_copies", "backups"),
        lambda s: s.min_copies <= s.backups,
        "`min_copies` must not be greater than `backups`: every change would be refused",
    ),
    Relation(
        ("session_bytes", "store_size"),
        lambda s: s.session_bytes * 8 <= s.store_size,
        "`session_bytes` must not be more than an eighth of `store_size`",
    ),
    Relation(
        ("session_bytes", "listen"),
        lambda s: not s.has_peers or s.session_bytes <= 2 * 2**20,
        "`session_bytes` must not be more than 2 MiB with peers: a session travels in one frame",
    ),
    Relation(
        ("listen", "admin"),
        lambda s: not s.listen or s.listen != s.admin,
        "`admin` must not be the address of `listen`: peers and people do not share a port",
    ),
)


# --- loading --------------------------------------------------------------------------------------


def _load(environ: Mapping[str, str], keywords: Mapping[str, object], *, member: bool) -> Settings:
    found = _Loading(environ, keywords, member=member).finish()
    return replace(found, source=partial(_load, environ, keywords, member=member))


class _Given(NamedTuple):
    """A value as it was given, and where."""

    value: object
    origin: str
    rank: int
    """0 keyword, 1 environment, 2 file: the lowest wins."""
    where: str = ""
    """In a file: its name and the line."""


class _Loading:
    """One reading of all sources; collects every mistake before it complains."""

    def __init__(
        self, environ: Mapping[str, str], keywords: Mapping[str, object], *, member: bool = True
    ) -> None:
        self._member = member
        self._rows = {name: row for name, row, _ in table()}
        self._problems: list[str] = []
        self._failed: set[str] = set()
        self._given: dict[str, _Given] = {}
        self._values: dict[str, Any] = {}
        self._file: TableFile | None = None
        self._take_keywords(keywords)
        self._take_environment(environ)
        self._take_file()

    def finish(self) -> Settings:
        """The checked settings. Raises InvalidSettings."""
        for name in self._given:
            self._read(name)
        description = self._describe()
        self._resolve_node(description)
        self._resolve_secret()
        self._resolve_addresses(description)
        self._resolve_numbers(description)
        settings = Settings(
            **self._values,
            description=description,
            origins=MappingProxyType({name: given.origin for name, given in self._given.items()}),
        )
        self._check(settings)
        if self._problems:
            raise InvalidSettings(self._problems)
        own = settings.own_engine
        return settings if own is None else replace(settings, engine_type=own.type)

    # sources

    def _take_keywords(self, keywords: Mapping[str, object]) -> None:
        for name, value in keywords.items():
            if value is not None:
                self._take(name, _Given(value, "keyword", 0), name, self._rows)

    def _take_environment(self, environ: Mapping[str, str]) -> None:
        known = [ENVIRONMENT + name.upper() for name in self._rows]
        for variable in sorted(environ):
            if variable.startswith(ENVIRONMENT) and environ[variable].strip():
                name = variable.removeprefix(ENVIRONMENT).lower()
                given = _Given(environ[variable], f"environment {variable}", 1)
                self._take(name, given, variable, known)

    def _take_file(self) -> None:
        if "config" not in self._given or (path := self._read("config")) is None:
            return
        try:
            self._file = TableFile(path)
        except ValueError as error:
            self._fail("config", str(error))
            return
        self._problems += self._file.problems
        for name, value in self._file.cluster.items():
            where = self._file.setting(name)
            self._take(
                name, _Given(value, f"file {path}", 2, where), f"{where}: {name}", self._rows
            )

    def _take(self, name: str, given: _Given, written: str, known: Any) -> None:
        if name not in self._rows or (name == "config" and given.rank == 2):
            hint = _hint(name, written.rpartition(" ")[2], list(known))
            self._problems.append(f"`{written}` is not a setting of sessionha: {hint}")
        elif name not in self._given or given.rank < self._given[name].rank:
            self._given[name] = given

    # values

    def _read(self, name: str) -> Any:
        """The value that was given for a setting, None when it is refused or absent."""
        if name in self._given and name not in self._values and name not in self._failed:
            try:
                self._values[name] = self._rows[name].kind.read(self._given[name].value)
            except ValueError as error:
                self._fail(name, str(error))
        return self._values.get(name)

    def _fail(self, name: str, why: str) -> None:
        given = self._given[name]
        value = repr(given.value)
        if name == "nodes" and isinstance(given.value, str):
            value = repr(show_nodes(given.value))
        if name == "secret" or "@" in value:  # a URL of nodes may carry a password
            value = "(hidden)"
        self._problems.append(f"`{name}` = {value} ({given.where or given.origin}) {why}")
        self._failed.add(name)
        self._values.pop(name, None)

    def _describe(self) -> Description:
        """The configured nodes: `nodes`, else the `[[node]]` tables of the file."""
        try:
            if "nodes" in self._values and self._file is not None and self._file.nodes:
                self._fail(
                    "nodes", "lists the nodes, and so do the [[node]] tables of the file: keep one"
                )
                return Description()
            if is_source(self._values.get("nodes", "")):
                self._values["discovery"] = read_source(self._values["nodes"])
                return Description()
            if "nodes" in self._values:
                return Description.parse(self._values["nodes"])
            if self._file is not None and self._file.nodes:
                return Description.of_tables(self._file.nodes, self._file.node)
        except InvalidSettings as error:
            self._problems += error.problems
            self._failed.add("nodes")
        except ValueError as error:
            self._fail("nodes", str(error))
        return Description()

    def _resolve_node(self, description: Description) -> None:
        if "node" not in self._given:
            host = socket.gethostname()
            if self._member and not is_name(host):
                self._problems.append(
                    f"`node` is not set and the host's name {host!r} cannot be one:"
                    " set SESSIONHA_NODE"
                )
                self._failed.add("node")
                return
            self._values["node"] = host
        node = self._values.get("node")
        if not self._member or not description.nodes or node is None:
            return
        if description.node(node) is None and self._values.get("admission") != "dynamic":
            self._problems.append(
                f"`node` = {node!r} is not one of the configured nodes"
                f" ({', '.join(description.order)}): set SESSIONHA_NODE to this node's ID, add"
                " it to `nodes`, or set `admission` to dynamic"
            )
            self._failed.add("node")

    def _resolve_secret(self) -> None:
        secret, file = self._given.get("secret"), self._given.get("secret_file")
        if secret and file and secret.rank == file.rank:
            self._problems.append(
                f"`secret` and `secret_file` are both given ({secret.origin}): leave one out"
            )
        elif secret and file and secret.rank < file.rank:
            del self._given["secret_file"]
            self._values.pop("secret_file", None)
        elif file:
            self._read_secret_file(file)

    def _read_secret_file(self, file: _Given) -> None:
        self._given["secret"] = file
        path = self._values.get("secret_file")
        try:
            self._values["secret"] = () if path is None else read_secrets(path)
        except ValueError as error:
            self._fail("secret_file", str(error))
        if not self._values.get("secret"):
            self._failed.add("secret")

    def _resolve_addresses(self, description: Description) -> None:
        if not self._member:
            self._values.update(listen="", advertise="", admin=self._values.get("admin", ""))
            return
        if "node" in self._failed and description.nodes:  # its address would be a guess
            self._failed.update({"listen", "advertise"} - self._given.keys())
            return
        own = description.addresses.get(self._values.get("node", ""), "")
        if "listen" not in self._given and (description.nodes or "discovery" in self._values):
            port = own.rpartition(":")[2] or PEER_PORT
            self._values["listen"] = own if own and _is_loopback(own) else f"0.0.0.0:{port}"
        listen = self._values.get("listen", "")
        if "advertise" not in self._given and listen:
            self._values["advertise"] = own or _advertised(listen)
        if "admin" not in self._given and listen:
            self._values["admin"] = f"127.0.0.1:{ADMIN_PORT}"

    def _resolve_numbers(self, description: Description) -> None:
        if "admission" not in self._given and "discovery" in self._values:
            self._values["admission"] = "dynamic"
        servers = len(description.servers)
        if "backups" not in self._given and servers >= 4:
            self._values["backups"] = 2
        # With one of two gone a majority would need the other, so that nothing were gained.
        if "consistency" not in self._given and len(description.nodes) >= 3:
            self._values["consistency"] = "quorum"
        quorum = self._values.get("consistency") == "quorum"
        if "forget_after" not in self._given:
            delay = self._values.get("heal_after", Settings.heal_after)
            self._values["forget_after"] = max(delay, QUORUM_FORGETS) if quorum else delay
        # Of a pair one must be able to go on alone, or a witness would be for nothing.
        if quorum and servers >= 3 and "min_copies" not in self._given:
            self._values["min_copies"] = min(1, self._values.get("backups", Settings.backups))

    # checks

    def _check(self, settings: Settings) -> None:
        for relation in RELATIONS:
            if not self._failed.intersection(relation.names) and not relation.holds(settings):
                values = ", ".join(
                    f"{name} = {_shown(self._rows[name], getattr(settings, name))}"
                    for name in relation.names
                )
                self._problems.append(f"{relation.meaning} ({values})")
        self._check_backups(settings)
        self._check_secret(settings)
        self._check_peers(settings)

    def _check_backups(self, settings: Settings) -> None:
        others = len(settings.description.servers) - 1
        if others > 0 and settings.backups > others and "backups" not in self._failed:
            self._problems.append(
                f"`backups` = {settings.backups} is more than the {others} other configured"
                " servers: lower it or add nodes"
            )

    def _check_secret(self, settings: Settings) -> None:
        if "secret" in self._failed:
            return
        if settings.insecure_loopback:
            self._check_loopback(settings)
            return
        self._problems += weaknesses(settings.secret, "")
        if not settings.secret and (settings.listen or settings.has_nodes):
            self._problems.append(
                "`secret` is not set, and nodes do not trust each other without one: set"
                " SESSIONHA_SECRET to what `sessionha secret` prints, the same on every node"
            )

    def _check_loopback(self, settings: Settings) -> None:
        if settings.discovery is not None:
            self._problems.append(
                f"`secret` = {INSECURE_LOOPBACK!r} is for nodes that are written down, and not for"
                f" `nodes` = {settings.discovery}, which may find any address: set a secret that"
                " `sessionha secret` printed"
            )
            return
        named = [("nodes", address) for address in settings.description.addresses.values()]
        named += [(name, getattr(settings, name)) for name in ("listen", "advertise", "admin")]
        self._problems += [
            f"`secret` = {INSECURE_LOOPBACK!r} is for loopback addresses only, but `{name}` has"
            f" {address}: set a secret that `sessionha secret` printed"
            for name, address in named
            if address and name not in self._failed and not _is_loopback(address)
        ]

    def _check_peers(self, settings: Settings) -> None:
        off = self._member and not settings.listen and "listen" not in self._failed
        if off and settings.has_nodes:
            self._problems.append(
                "`listen` is off, but nodes are configured, which must reach this one: set an"
                " address"
            )
        elif off and settings.min_copies and "min_copies" not in self._failed:
            self._problems.append(
                f"`min_copies` = {settings.min_copies}, but nobody can take a copy, so that every"
                " change would be refused: configure `nodes`, or leave it out"
            )


def _hint(name: str, written: str, known: list[str]) -> str:
    """What to do about a name that is no setting."""
    if name in ARGUMENTS:
        return f"pass `{name}=` to SessionMiddleware in the code"
    if near := get_close_matches(name, ARGUMENTS, n=1, cutoff=0.8):
        return f"did you mean `{near[0]}=`, an argument of SessionMiddleware?"
    if near := get_close_matches(written, known, n=1):
        return f"did you mean `{near[0]}`?"
    return "`sessionha config` lists all settings"


def _is_loopback(address: str) -> bool:
    """Whether `host:port` is never left for another machine."""
    return same_host(address, "127.0.0.1:1")


def _advertised(listen: str) -> str:
    """Where peers reach a listener: its own address, or the host's when it listens on all."""
    host, _, port = listen.rpartition(":")
    if host not in ("0.0.0.0", "[::]"):
        return listen
    # Choosing a route for a datagram socket sends nothing; it tells which address would be used.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1 (RFC 5737): nobody's address
            return f"{probe.getsockname()[0]}:{port}"
        except OSError:
            return f"127.0.0.1:{port}"


def _is_row(column: Field[Any]) -> bool:
    return "row" in column.metadata


def _default_shown(column: Field[Any]) -> str:
    row: Row = column.metadata["row"]
    if row.shown or column.default is MISSING or column.default in (None, "", ()):
        return row.shown
    return f"`{row.kind.show(column.default)}`"


def _shown(row: Row, value: object) -> str:
    return "" if value is None else row.kind.show(value)

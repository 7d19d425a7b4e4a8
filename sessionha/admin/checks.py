"""What `sessionha doctor` can find wrong with a node: pure checks of facts that were gathered."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeVar

from sessionha.agreement import other_keys
from sessionha.session.affinity import PASSED_OVER, Reason
from sessionha.settings import Settings
from sessionha.store.base import Usage
from sessionha.store.place import VOLATILE
from sessionha.topology.health import NodeState
from sessionha.view import NO_MEMBERS, View

Outcome = Literal["ok", "warn", "fail"]
Of = TypeVar("Of")


class Finding(NamedTuple):
    """The result of a check; a check has several when it finds several problems."""

    check: str
    outcome: Outcome
    found: str
    remedy: str = ""


class Problem(NamedTuple):
    """Something that a check found: `warn` for what works and should not stay so."""

    outcome: Outcome
    found: str
    remedy: str


class Heard(NamedTuple):
    """What came of asking another node over a stream."""

    address: str
    error: str = ""
    refused: bool = False
    listens: bool = False
    """Something accepts connections there, though it does not answer as a node of the cluster."""
    skew: float = 0.0
    """Seconds that its clock is surely ahead of this node's, or behind it (negative)."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a node that runs."""

    settings: Settings
    usage: Usage
    view: View = NO_MEMBERS
    state: NodeState = NodeState.READY
    waiting_for: str = ""
    differing: Mapping[str, str] = field(default_factory=dict)
    """Nodes that have had another description for a while, each with what differs."""
    detours: Mapping[str, str] = field(default_factory=dict)
    """Members that are only reached by way of another one, each with that one."""
    heard: Mapping[str, Heard] = field(default_factory=dict)
    agreed: tuple[tuple[str, str], ...] = ()
    """This node's values of the settings that all nodes must have alike."""
    late: bool = False
    """A request started it."""
    weak_key: str = ""
    """What is wrong with the application's key."""
    secret_mode: int = 0o600
    """Of the file with the cluster secret."""
    place: str = ""
    """The store's directory; empty where it is the process's own memory."""
    shared_memory: bool = True
    """Whether that directory is in shared memory."""
    allocated: bool = True
    """Whether the store's whole file is, so that it is written through a map."""
    state_file_system: str = ""
    """The type of the file system of `state_dir`, where that is set."""
    has_lost_votes: bool = False
    held: tuple[str, ...] = ()
    """Nodes that are awaited until they are back, by an operator's word."""
    awaited: bool = False
    """Whether the seats of an absent node are kept."""
    at_risk: int = 0
    """Groups that this node leads and nobody else has a copy of."""
    ways: Mapping[Reason, int] = field(default_factory=dict)
    """How requests of known clients found their way to this process (`session.affinity`)."""
    found_by_itself: bool = True
    """Something accepts connections where others are told to reach this node."""


FULL: Final = 0.8
"""Of what the store may take: from here on it is about to refuse."""

SKEW_NOTED: Final = 1.0
SKEW: Final = 2.0
"""Seconds by which clocks may differ: cookies carry a deadline of the wall clock, and every node
allows it that much (contract, section 4)."""

FEW: Final = 100
"""Requests that say little about a balancer: fewer count as if they were so many."""

ASTRAY: Final = 0.05
"""Of the requests of known clients. While a death is found out, and after a change of keys, some
are passed over as they should be."""

_OTHERS_CAN_READ: Final = 0o077

_PLAIN: Final = "is not encrypted"


def findings(facts: Facts) -> list[Finding]:
    """Every check that applies to the node, in one order."""
    return results(CHECKS, facts)


def results(
    checks: Mapping[str, tuple[str, Callable[[Of], Iterable[Problem] | None]]], of: Of
) -> list[Finding]:
    """What these checks find, in their order: those that apply. Of each its name, what is said
    where nothing is wrong, and the check, which tells None where it does not apply."""
    found: list[Finding] = []
    for name, (fine, check) in checks.items():
        problems = check(of)
        if problems is not None:
            listed = [Finding(name, *problem) for problem in problems]
            found += listed or [Finding(name, "ok", fine)]
    return found


# --- the cluster ----------------------------------------------------------------------------------


def _start(facts: Facts) -> Iterable[Problem] | None:
    if not facts.settings.has_peers:
        return None
    found = "it was started by its first request, and was no member of the cluster before"
    remedy = (
        "run ASGI servers with their lifespan; let a hook start the node in WSGI servers"
        " (docs/operations.md, WSGI servers)"
    )
    return [Problem("warn", found, remedy)] if facts.late else []


def _state(facts: Facts) -> Iterable[Problem]:
    state = facts.state
    if state is NodeState.READY:
        return
    if state is NodeState.DRAINING:
        yield Problem("warn", "it drains: it takes no new clients", "wait for its end, or restart")
        return
    if state is NodeState.CATCHING_UP:
        yield Problem("warn", "it gets its copies from the others", "wait until it is ready")
        return
    waits = f"; it waits for {facts.waiting_for}" if facts.waiting_for else ""
    yield Problem(
        "fail",
        f"it is {state} and answers 503{waits}",
        "start the nodes that it waits for and see that they can be reached (`peers` below); where"
        " it is refused, its log says why",
    )


def _majority(facts: Facts) -> Iterable[Problem] | None:
    view, own = facts.view, facts.settings.node
    if facts.settings.consistency != "quorum" or not view.electors:
        return None
    silent = [node for node in view.voters if node != own and _is_silent(facts, node)]
    here = len(view.voters) - len(silent)
    words = f"{here} of {len(view.voters)} electors answer, {view.majority} are needed"
    if here < view.majority:
        remedy = (
            "start them, or mend the network between; only if they are gone for good:"
            " `sessionha bootstrap --without NODE`"
        )
        return [Problem("fail", f"{words}; silent: {', '.join(silent)}", remedy)]
    if here == view.majority and len(view.electors) > 1:
        remedy = "bring absent nodes back; configure three or five, or a witness beside two"
        left = len(view.voters) - 1  # who says goodbye counts no more
        end = "crash or goodbye" if 0 < left >= 2 * (here - 1) else "crash"
        found = (
            f"{words}: the next {end} stops the cluster, and who is left answers no reads either"
        )
        return [Problem("warn", found, remedy)]
    return []


def _is_silent(facts: Facts, node: str) -> bool:
    heard = facts.heard.get(node)
    return heard is not None and bool(heard.error)


def _alone(facts: Facts) -> Iterable[Problem] | None:
    settings = facts.settings
    if len(settings.description.nodes) < 2 and settings.discovery is None:
        return None
    if facts.view.member(settings.node) is None:
        return None  # `state` says why
    servers = len(facts.view.servers)
    if servers <= settings.min_copies:
        found = (
            f"{servers} of the {settings.min_copies + 1} servers are members that a change needs"
            f" (`min_copies` = {settings.min_copies}): changes are answered with 503"
        )
        remedy = "start other nodes; where the rest is gone for good, set `min_copies` and restart"
        return [Problem("fail", found, remedy)]
    if facts.view.nodes != (settings.node,):
        return []
    remedy = "start other nodes; where they run, compare `nodes`, `cluster`, secret and addresses"
    return [Problem("warn", "it is alone: changes have no copies on other nodes", remedy)]


def _peers(facts: Facts) -> Iterable[Problem] | None:
    return _reached(facts) if facts.settings.has_peers else None


def _reached(facts: Facts) -> Iterator[Problem]:
    for node, heard in facts.heard.items():
        member, via = facts.view.member(node) is not None, facts.detours.get(node)
        if heard.error:
            what = f"{node} at {heard.address}: {heard.error}" + (
                f"; it is reached through {via}" if via else ""
            )
            yield Problem("fail" if member and not via else "warn", what, _remedy(heard))
        elif not member and facts.view.members:
            yield Problem(
                "warn",
                f"{node} at {heard.address} answers, and is not a member",
                "if it does not join in some seconds: its log, and `sessionha doctor` there",
            )


def _remedy(heard: Heard) -> str:
    if heard.refused:
        return "start it, or correct its address in `nodes`, or its `listen`"
    if heard.listens:
        return (
            "give it the same secret and `cluster` as this node; if it has them, its process stands"
            " still, or something else listens there"
        )
    return "let TCP through to that port: firewall, security group, network policy"


def _copies(facts: Facts) -> Iterable[Problem] | None:
    if not facts.settings.has_peers:
        return None
    found = []
    if facts.held:
        held = ", ".join(facts.held)
        lasts = f"the seats of {held} are held: copies are not made elsewhere"
        remedy = f"`sessionha heal {facts.held[0]} --extend 0` when the maintenance is over"
        found.append(Problem("warn", lasts, remedy))
    company = len(facts.view.servers) > 1 and facts.settings.backups > 0
    if facts.at_risk and company and not facts.awaited:
        lacks = f"{facts.at_risk} groups have no copy on another node"
        remedy = "see with `sessionha heal` whether they get one; give full stores room"
        found.append(Problem("warn", lacks, remedy))
    return found


def _affinity(facts: Facts) -> Iterable[Problem] | None:
    if not facts.settings.has_peers:
        return None
    total = sum(facts.ways.values())
    astray = {reason: facts.ways.get(reason, 0) for reason in PASSED_OVER}
    share = sum(astray.values()) / max(total, FEW)
    if share <= ASTRAY:
        return []
    most = max(astray, key=astray.__getitem__)
    found = (
        f"{share:.0%} of {total} requests of known clients came past their server without a reason"
        f" of the cluster's, most with `{most}`"
    )
    remedy = "`sessionha doctor https://…`, with the public address, finds the layer that does it"
    return [Problem("warn", found, remedy)]


def _clocks(facts: Facts) -> Iterable[Problem] | None:
    if all(heard.error for heard in facts.heard.values()):
        return None
    return [
        Problem(
            "fail" if abs(heard.skew) > SKEW else "warn",
            f"the clock of {node} is {abs(heard.skew):.1f} s"
            f" {'ahead' if heard.skew > 0 else 'behind'}",
            "run NTP (chrony, systemd-timesyncd) on every machine: sessions end too early or late",
        )
        for node, heard in facts.heard.items()
        if abs(heard.skew) > SKEW_NOTED
    ]


def skew(theirs: float, asked: float, answered: float) -> float:
    """By how much a clock that showed `theirs` between two instants of this one is surely off."""
    if theirs < asked:
        return theirs - asked
    return max(theirs - answered, 0.0)


# --- what the nodes must have in common -----------------------------------------------------------


def _description(facts: Facts) -> Iterable[Problem] | None:
    if not facts.settings.description.nodes:
        return None
    return [
        Problem(
            "warn",
            f"{node} has another description of the cluster: {what}",
            "give every node the same file and `sessionha reload`, or the same `nodes` in one"
            " order",
        )
        for node, what in facts.differing.items()
    ]


def _settings(facts: Facts) -> Iterable[Problem] | None:
    if not facts.settings.has_peers:
        return None
    return [
        Problem(
            "warn",
            f"{member.node} has `{name}` = {theirs or 'nothing'}, this node {mine or 'nothing'}",
            "give every node the same, and `sessionha reload` or restart it",
        )
        for member in facts.view.servers
        if member.node != facts.settings.node
        for name, mine in facts.agreed
        if (theirs := dict(member.settings).get(name, mine)) != mine
    ]


def _application_key(facts: Facts) -> Iterable[Problem]:
    if facts.weak_key:
        yield Problem("warn", facts.weak_key, "`sessionha secret` prints a good one")
    own = facts.view.member(facts.settings.node)
    if own is None or not own.keys:
        return
    for member in facts.view.servers:
        if other_keys(own.keys, member.keys):
            yield Problem(
                "fail",
                f"{member.node} has another application key: users are logged out whenever a"
                " request changes servers",
                "give every node the same `secret_key`",
            )


# --- secrets and listeners ------------------------------------------------------------------------


def _secret(facts: Facts) -> Iterable[Problem]:
    settings = facts.settings
    if settings.insecure_loopback:
        yield Problem(
            "warn",
            "there is none: every program of this machine can pass for a node",
            "for more than a trial, set SESSIONHA_SECRET to what `sessionha secret` prints",
        )
    if facts.secret_mode & _OTHERS_CAN_READ:
        yield Problem(
            "warn",
            f"other users may read {settings.secret_file} (mode {facts.secret_mode:04o})",
            f"chmod 600 {settings.secret_file}",
        )


def _listen(facts: Facts) -> Iterable[Problem] | None:
    settings = facts.settings
    if not settings.has_peers:
        return None
    return [*_exposed(settings), *_not_reachable(facts)]


def _exposed(settings: Settings) -> Iterator[Problem]:
    if _is_loopback(settings.listen):
        return
    public = _is_public(settings.listen) or _is_public(settings.advertise)
    yield Problem(
        "fail" if public else "warn",
        f"what nodes tell each other at {settings.listen} is authenticated, and {_PLAIN}"
        + (f"; {settings.advertise} is a public address" if public else ""),
        "give nodes a private network or a tunnel (WireGuard), and let a firewall admit to that"
        " port only nodes and routers",
    )


def _not_reachable(facts: Facts) -> Iterator[Problem]:
    settings = facts.settings
    if not facts.found_by_itself:
        yield Problem(
            "warn",
            f"others are told to reach this node at {settings.advertise}, where nothing accepts"
            f" connections from here; it listens at {settings.listen}",
            "let `listen` and its address in `nodes` (or `advertise`) agree, or forward that port",
        )
    if not _is_loopback(settings.advertise):
        return
    addresses = settings.description.addresses | {m.node: m.peer for m in facts.view.members}
    far = sorted(node for node, address in addresses.items() if not _is_loopback(address))
    far = [node for node in far if node != settings.node]
    if far:
        yield Problem(
            "fail",
            f"others are told to reach this node at {settings.advertise}, which is this machine"
            f" itself: {', '.join(far)} cannot",
            "set SESSIONHA_ADVERTISE to an address that other machines can reach",
        )


def _administration(facts: Facts) -> Iterable[Problem] | None:
    address = facts.settings.admin
    if not address:
        return None
    found = f"it is open to other machines at {address}, and {_PLAIN}: tokens can be overheard"
    remedy = "listen at 127.0.0.1, or admit only a proxy with TLS, or a private network"
    return [] if _is_loopback(address) else [Problem("warn", found, remedy)]


def _host(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(address.rpartition(":")[0].strip("[]"))
    except ValueError:
        return None


def _is_loopback(address: str) -> bool:
    host = _host(address)
    return address.startswith("localhost:") if host is None else host.is_loopback


def _is_public(address: str) -> bool:
    host = _host(address)
    return host is not None and host.is_global


# --- the store ------------------------------------------------------------------------------------


def _store(facts: Facts) -> Iterable[Problem]:
    settings, usage = facts.settings, facts.usage
    if not facts.place:
        if settings.has_peers:
            found = "sessions are in the memory of one process, and end with it"
            yield Problem("warn", found, "leave `store` out, or name a directory on a tmpfs")
    elif not settings.store and not facts.shared_memory:
        yield Problem(
            "warn",
            f"/dev/shm had less than {settings.store_size >> 20} MiB free, so sessions are in"
            f" {facts.place}, which is slower and may be a disk",
            "give the container shared memory (docker run --shm-size, emptyDir.medium: Memory), or"
            " set SESSIONHA_STORE",
        )
    elif settings.has_peers and not facts.allocated:
        yield Problem(
            "warn",
            "there was no memory to allocate the whole file at once, so writes take twice as long",
            "free four times `store_size` in shared memory and restart the node, or lower it",
        )
    yield from _filled(settings, usage)


def _filled(settings: Settings, usage: Usage) -> Iterator[Problem]:
    room = "raise `store_size` and the memory limit, shorten `idle_timeout`, or add nodes"
    words = f"{usage.used >> 20} of {usage.limit >> 20} MiB are used"
    if usage.used >= usage.limit:
        yield Problem("fail", f"{words}: changes are answered with 503", room)
    elif usage.used >= FULL * usage.limit:
        yield Problem("warn", f"{words}: it is nearly full", room)
    elif usage.limit < FULL * settings.store_size / 2:
        yield Problem(
            "warn",
            f"it may take {usage.limit >> 20} MiB, though `store_size` is"
            f" {settings.store_size >> 20} MiB",
            "free space where it lies (/dev/shm), or raise the container's memory limit, of which"
            " it takes a quarter",
        )


def _votes(facts: Facts) -> Iterable[Problem] | None:
    settings = facts.settings
    if settings.consistency != "quorum":
        return None
    found = []
    if facts.state_file_system in VOLATILE:
        what = f"`state_dir` = {settings.state_dir} is memory: a reboot loses this node's votes"
        found.append(Problem("warn", what, "set SESSIONHA_STATE_DIR to a directory on a disk"))
    if facts.has_lost_votes and facts.view.members:  # else the cluster begins
        what = "it has lost its votes, and votes again after the next change of the membership"
        remedy = "restart another node, one at a time; and keep `state_dir` on a disk"
        found.append(Problem("warn", what, remedy))
    return found


Check = Callable[[Facts], Iterable[Problem] | None]
"""None: it does not apply to the node."""

CHECKS: Final[Mapping[str, tuple[str, Check]]] = {
    "start": ("no request had to start the node", _start),
    "state": ("it is ready", _state),
    "alone": ("it has company", _alone),
    "majority": ("more electors answer than are needed", _majority),
    "peers": ("every other node answers and is a member", _peers),
    "copies": ("no group lacks one that could be made, and nobody is held", _copies),
    "affinity": ("requests come to the server that their cookie names first", _affinity),
    "clocks": ("those of other nodes agree with this node's", _clocks),
    "description": ("no node has another one", _description),
    "settings": ("every member has the same, where that matters", _settings),
    "application key": ("it is a good one, and every member has it", _application_key),
    "secret": ("it is a good one, and nobody else may read it", _secret),
    "listener": ("only this machine can reach it", _listen),
    "administration": ("only this machine can reach it", _administration),
    "store": ("it is in shared memory, and has room", _store),
    "votes": ("they are kept on a disk", _votes),
}
"""Name, what is said where nothing is wrong, and the check."""

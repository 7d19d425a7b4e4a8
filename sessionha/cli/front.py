"""What canaries say of the layers between a public address and the nodes: pure checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from sessionha.admin.checks import SKEW, SKEW_NOTED, Finding, Outcome, Problem, results, skew
from sessionha.cli.canaries import Seen, Told, covers
from sessionha.session.canaries import Report


class Heard(NamedTuple):
    """A canary that a node answered."""

    seen: Seen
    report: Report

    @property
    def node(self) -> str:
        return self.report.node


class Tour:
    """All canaries of one examination. `path`: that of the public address; `host`: its name."""

    def __init__(self, seen: Sequence[Seen], path: str, host: str) -> None:
        self.seen = seen
        self.path = path
        self.host = host
        self.heard = [Heard(each, each.report) for each in seen if each.report is not None]
        self.nodes = {each.node: each.report for each in self.heard}
        """The last report of each node that answered."""
        self.by = next((each.by for each in seen if each.by), "")
        self.layer = f"the layer in front (it says {self.by!r})" if self.by else "a layer in front"

    def of(self, *kinds: str) -> list[Heard]:
        """The canaries of these kinds that a node answered."""
        return [each for each in self.heard if each.seen.kind in kinds]

    @property
    def lost(self) -> Mapping[str, int]:
        """How often each of the nodes' cookies was sent and did not arrive."""
        ours = (name for each in self.heard for name in missing(each))
        return Counter(ours)

    @property
    def signed(self) -> str:
        """The key ID that nodes sign routes with; empty: they write none."""
        return next((each.report.keys[0] for each in self.heard if each.report.keys), "")


def missing(heard: Heard) -> list[str]:
    """The nodes' own cookies that were sent and did not arrive."""
    ours = (heard.report.route_cookie, heard.report.session_cookie)
    return [name for name in ours if name in heard.seen.sent and name not in heard.report.cookies]


def diagnose(tour: Tour) -> list[Finding]:
    """Every check that applies, in one order: what comes first explains what comes after."""
    return results(CHECKS, tour)


# --- who answers ----------------------------------------------------------------------------------


def _address(tour: Tour) -> Iterator[Problem]:
    total = len(tour.seen)
    errors = [each.error for each in tour.seen if not each.status]
    if errors:
        words = f"{len(errors)} of {total} requests got no answer: {errors[0]}"
        remedy = "see that something listens at this address, and that what it asks is up"
        yield Problem("fail", words, remedy)
    strange = [each for each in tour.seen if each.status and not (each.report or each.refused)]
    if not strange:
        return
    where = next((each.location for each in strange if each.location), "")
    statuses = ", ".join(map(str, sorted({each.status for each in strange})))
    words = f"{len(strange)} of {total} requests were not answered by a node: {statuses}"
    if where:
        yield Problem("fail", f"{words}, to {where}", "examine the address that it redirects to")
    else:
        remedy = (
            "name a path that the application serves to everybody; see that nothing on the way"
            " answers by itself (a cache, a log-in, a server without sessionha), and that the query"
            " arrives"
        )
        yield Problem("fail", words, remedy)


def _secrets(tour: Tour) -> Iterator[Problem] | None:
    refused = [each for each in tour.seen if each.refused]
    if not refused and not tour.heard:
        return None
    return _differing_secrets(tour, len(refused))


def _differing_secrets(tour: Tour, refused: int) -> Iterator[Problem]:
    if refused and not tour.heard:
        remedy = "run it with the SESSIONHA_SECRET of the nodes"
        yield Problem("fail", "the nodes have another cluster secret than this command", remedy)
    elif refused:
        yield Problem(
            "fail",
            f"{refused} of {len(tour.seen)} requests came to a node with another cluster secret"
            f" than {_listed(tour.nodes)}: it is no member of their cluster",
            "give every node behind this address the same SESSIONHA_SECRET",
        )


def _clusters(tour: Tour) -> Iterable[Problem] | None:
    if not tour.nodes:
        return None
    sides: dict[str, list[str]] = {}
    for node, report in tour.nodes.items():
        sides.setdefault(report.cluster, []).append(node)
    if len(sides) < 2:
        return []
    words = "; ".join(_listed(nodes) for nodes in sides.values())
    remedy = "compare `cluster` and `nodes` of these nodes: each side has sessions of its own"
    return [Problem("fail", f"the nodes are of {len(sides)} clusters: {words}", remedy)]


def _clocks(tour: Tour) -> Iterable[Problem] | None:
    """By how much each clock is surely off: of the canaries of a node, the least."""
    off: dict[str, float] = {}
    for each in tour.heard:
        seconds = skew(each.report.now, each.seen.asked, each.seen.answered)
        off[each.node] = min(off.get(each.node, seconds), seconds, key=abs)
    if not off:
        return None
    wrong = {node: seconds for node, seconds in off.items() if abs(seconds) > SKEW_NOTED}
    remedy = "run NTP (chrony, systemd-timesyncd) on every machine: sessions end too early or late"
    if len(off) > 1 and len(wrong) == len(off):
        ahead = next(iter(wrong.values()))
        words = f"this machine's clock is {_apart(-ahead)} those of {_listed(off)}"
        return [Problem(_weight(ahead), words, remedy)]
    return [
        Problem(
            _weight(seconds), f"the clock of {node} is {_apart(seconds)} this machine's", remedy
        )
        for node, seconds in wrong.items()
    ]


def _weight(seconds: float) -> Outcome:
    return "fail" if abs(seconds) > SKEW else "warn"


def _apart(seconds: float) -> str:
    return f"{abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'}"


# --- cookies --------------------------------------------------------------------------------------


def _cookies(tour: Tour) -> Iterator[Problem] | None:
    if not tour.heard:
        return None
    return _lost_cookies(tour)


def _lost_cookies(tour: Tour) -> Iterator[Problem]:
    if tour.lost:
        names = " and ".join(f"`{name}`" for name in sorted(tour.lost))
        often = max(tour.lost.values())
        yield Problem(
            "fail",
            f"{tour.layer} drops {names} from requests ({often} did not arrive)",
            "let it pass the whole Cookie header: look for a cache or a CDN that keeps only some"
            " cookies, and for rules that remove or overwrite the header",
        )
    untold = Counter(name for each in tour.of("new") for name in _untold(each))
    if untold:
        names = " and ".join(f"`{name}`" for name in sorted(untold))
        yield Problem(
            "fail",
            f"{tour.layer} drops the Set-Cookie of {names} from answers",
            "let it pass every Set-Cookie header: look for a cache, and for rules that hide it",
        )


def _untold(heard: Heard) -> list[str]:
    """Cookies that the node set and the client did not get."""
    report = heard.report
    if report.session == "unavailable" or report.in_headers:
        return []
    expected = [report.session_cookie] + ([report.route_cookie] if report.keys else [])
    told = {each.name for each in heard.seen.told}
    return [name for name in expected if name not in told]


def _cookie_path(tour: Tour) -> Iterable[Problem] | None:
    found = {
        told: each
        for each in tour.of("new")
        for told in each.seen.told
        if told.name in (each.report.session_cookie, each.report.route_cookie)
    }
    if not found:
        return None
    # one of each name will do
    return [
        problem
        for told, each in {told.name: (told, each) for told, each in found.items()}.values()
        if (problem := _unsent(tour, told, each.report)) is not None
    ]


def _unsent(tour: Tour, told: Told, report: Report) -> Problem | None:
    """Why a browser would not send a cookie back to this address."""
    if not covers(told.path, tour.path):
        words = f"browsers do not send `{told.name}` to {tour.path}: its path is {told.path}"
        if report.path != tour.path:
            words += f"; {tour.layer} rewrites {tour.path} to {report.path}"
        elif told.name == report.session_cookie and report.session_path not in ("", told.path):
            words += f", which {tour.layer} made of {report.session_path}"
        remedy = (
            "let it pass paths as they are, or rewrite the path of cookies as well (nginx:"
            " proxy_cookie_path), or give the application's session cookie the path /"
        )
        return Problem("fail", words, remedy)
    if told.domain and tour.host != told.domain and not tour.host.endswith(f".{told.domain}"):
        words = f"browsers refuse `{told.name}`: its domain is {told.domain}, and not {tour.host}"
        return Problem("fail", words, "correct the cookie's domain, or what rewrites it")
    return None


# --- the balancer ---------------------------------------------------------------------------------


def _route_keys(tour: Tour) -> Iterable[Problem] | None:
    if not tour.signed:
        return None
    return [*_keys_of_nodes(tour), *_keys_in_front(tour)]


def _keys_of_nodes(tour: Tour) -> Iterator[Problem]:
    signers: dict[str, list[str]] = {}
    for node, report in tour.nodes.items():
        if report.keys:
            signers.setdefault(report.keys[0], []).append(node)
    for key, nodes in signers.items():
        lacking = [node for node, report in tour.nodes.items() if key not in report.keys]
        if lacking:
            yield Problem(
                "fail",
                f"{_listed(lacking)} cannot verify the route cookies of {_listed(nodes)}: the"
                f" secret is missing there that makes the key {key}",
                "give every node the same list in SESSIONHA_SECRET, and `sessionha reload`",
            )


def _keys_in_front(tour: Tour) -> Iterator[Problem]:
    followed = Follows(tour)
    others = sorted(followed.keys - {tour.signed})
    if followed.misses and others:
        yield Problem(
            "fail",
            f"{tour.layer} verifies route cookies with other keys than the nodes sign with: it"
            f" knows {', '.join(others)}, and not {tour.signed}",
            "give it the nodes' list of secrets, or the keys of a fresh `sessionha export`",
        )
    elif followed.misses and any(each.report.hops for each in followed.misses):
        yield Problem(
            "fail",
            "the router of sessionha in front does not read the nodes' route cookies",
            "give it the nodes' SESSIONHA_SECRET and SESSIONHA_ROUTE_COOKIE",
        )


class Follows:
    """Where canaries went whose route names a server; only those whose cookie arrived."""

    def __init__(self, tour: Tour) -> None:
        self.asked = [each for each in tour.of("named") if not missing(each)]
        signed = [each for each in self.asked if each.seen.key == tour.signed]
        self.misses = [each for each in signed if each.node != each.seen.named]
        self.tried = signed
        self.keys = {
            key
            for key in {each.seen.key for each in self.asked}
            if all(each.node == each.seen.named for each in self.asked if each.seen.key == key)
        }
        """Key IDs whose routes were followed each time."""


def _balancer(tour: Tour) -> Iterable[Problem] | None:
    followed = Follows(tour)
    if not followed.tried:
        return None
    stuck = _stuck(tour)
    if stuck is not None:
        return [stuck]
    if not followed.misses or any(True for _ in _keys_in_front(tour)):
        return []
    return _ignores(tour, followed)


def _stuck(tour: Tour) -> Problem | None:
    """A balancer that follows a cookie of its own."""
    astray = [
        each
        for each in tour.of("stuck")
        if each.node != each.seen.named and each.node == each.seen.stuck_to
    ]
    if not astray or len(astray) < len(tour.of("stuck")):
        return None
    ours = (astray[0].report.route_cookie, astray[0].report.session_cookie)
    names = ", ".join(f"`{name}`" for name in astray[0].seen.sent if name not in ours)
    return Problem(
        "fail",
        f"{tour.layer} sticks clients to servers by {names}, and not by the route cookie: after a"
        " failover they go on to the wrong server",
        f"turn that stickiness off, and let it follow `{astray[0].report.route_cookie}`"
        " (`sessionha export`)",
    )


def _ignores(tour: Tour, followed: Follows) -> Iterator[Problem]:
    cookie = followed.tried[0].report.route_cookie
    missed = {each.seen.named for each in followed.misses}
    kept = {each.seen.named for each in followed.tried} - missed
    reached = {each.node for each in tour.heard}
    never = sorted(missed - reached)
    total, misses = len(followed.tried), len(followed.misses)
    always = {each.node for each in followed.tried}
    if len(always) > 1 and never:
        yield Problem(
            "fail",
            f"{tour.layer} passes nothing to {_listed(never)}, which the cluster says is ready",
            "add it to the balancer's servers, or see why its check of `/readyz` fails there",
        )
        if set(never) == missed:
            return
    if len(always) == 1:
        words = f"{tour.layer} passes every request to {_listed(always)}, whatever `{cookie}` says"
        remedy = "it chooses by the client's address, or knows one server only: let it follow"
    elif kept and misses <= total // len(followed.asked[0].report.servers or (0,)):
        words = f"{tour.layer} passed {misses} of {total} requests to others than `{cookie}` names"
        remedy = "see whether its checks of a server fail now and then; it should follow"
    else:
        words = (
            f"{tour.layer} spreads requests over {_listed(reached)} whatever `{cookie}` says"
            f" ({misses} of {total} went astray)"
        )
        remedy = "sessions move with every request; let it follow"
    yield Problem("fail", words, f"{remedy} the route cookie (`sessionha export`, docs/operations)")


def _drains(tour: Tour) -> Iterable[Problem] | None:
    newcomers = tour.of("new")
    if not newcomers:
        return None
    sent = Counter((each.node, each.report.state) for each in newcomers)
    remedy = (
        "see that `sessionha follow` runs, and with nginx that its workers may enter the directory"
        " of the marks; or let the balancer ask `/readyz` (`health_path`) and give clients only to"
        " who answers 200; if it began a moment ago, examine again"
    )
    return [
        Problem(
            "fail",
            f"{tour.layer} gives new clients to {node}, which is {state} ({count} of"
            f" {len(newcomers)})",
            remedy,
        )
        for (node, state), count in sent.items()
        if state != "ready"
    ]


# --- sessions -------------------------------------------------------------------------------------


def _sessions(tour: Tour) -> Iterable[Problem] | None:
    back = [each for each in tour.of("back") if each.report.session_cookie in each.report.cookies]
    if not back:
        return None
    return [problem for state in _LOST for problem in _lost(back, state)]


_LOST: Final[Mapping[str, tuple[str, str]]] = {
    "refused": (
        "refuses session cookies of the others",
        "give every node the same `secret_key`; a wrong clock does it too",
    ),
    "gone": ("does not find sessions that began a moment ago", "`sessionha doctor` at that node"),
    "unavailable": ("cannot serve sessions", "`sessionha doctor` at that node"),
}


def _lost(back: Iterable[Heard], state: str) -> Iterator[Problem]:
    words, remedy = _LOST[state]
    for node in dict.fromkeys(each.node for each in back if each.report.session == state):
        yield Problem("fail", f"{node} {words}", remedy)


def _listed(nodes: Iterable[str]) -> str:
    return ", ".join(sorted(nodes))


Check = Callable[[Tour], Iterable[Problem] | None]
"""None: it does not apply."""

CHECKS: Final[Mapping[str, tuple[str, Check]]] = {
    "address": ("nodes of sessionha answer there", _address),
    "secrets": ("every node that answers has the same", _secrets),
    "cluster": ("every node that answers is of the same", _clusters),
    "clocks": ("those of the nodes agree with this machine's", _clocks),
    "cookies": ("they pass in both directions", _cookies),
    "cookie path": ("browsers send cookies back to this address", _cookie_path),
    "route keys": ("all nodes, and what is in front, have the same", _route_keys),
    "balancer": ("every request came to the server that its cookie names first", _balancer),
    "drain": ("new clients are given to servers that are ready", _drains),
    "sessions": ("they are found again", _sessions),
}
"""Name, what is said where nothing is wrong, and the check."""

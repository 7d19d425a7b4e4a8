"""The node's counts and gauges in the text format of Prometheus. Every label is bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from sessionha import __version__
from sessionha.admin.snapshot import LEVELS, store_of, strangers
from sessionha.engine import Engine
from sessionha.exposition import exposed
from sessionha.topology.detector import DETECTED, DETECTIONS, detected
from sessionha.topology.health import NodeState

STATE: Final = {
    "commits": "Changes that were committed here as primary",
    "handovers": "Groups taken over from a primary that lives",
    "promotions": "Groups taken over without their primary",
    "fetches": "Groups whose content was fetched from another node to take them over",
    "forwards": "Changes passed on because the group moved while a request ran",
    "unconfirmed": "Changes that not every backup confirmed in time",
    "rolled_back": "Changes undone because nobody confirmed them",
    "gone": "Requests whose group was proven to be nowhere",
    "pushes_in": "Changes received as a backup",
    "pushes_full": "Whole groups sent to backups",
    "fenced": "Messages refused because of a newer epoch",
    "touches": "Uses of sessions that were recorded",
    "swept": "Sessions removed after their end",
    "merged": "Elements in which the changes of several requests were brought together",
    "conflicts": "Changes that replaced what their request had not seen",
    "repaired": "Groups brought back to their wanted number of copies",
    "healed": "Copies made on nodes that took the seats of others which stayed away too long",
    "replaced": "Temporary copies made while the owners of seats are awaited",
    "refilled": "Copies that owners of seats got: they were back, or the seat was free",
    "moved": "Copies made elsewhere because their nodes leave, or to balance the load",
    "domain_waits": "Changes that waited for a domain that was being healed",
    "domain_waited": "Milliseconds that such changes have waited",
    "confirmed": "Reads that every copy confirmed",
    "revocations": "Log-outs of all or some sessions of a subject",
    "revoked": "Sessions that these log-outs ended",
    "fewer_copies": "Changes that have fewer copies than `backups`",
    "verified": "Copies kept for other nodes that were verified",
    "differing": "Copies that were not what their primary has",
    "undecodable": "Copies with a value that cannot be decoded",
    "renewed": "Copies that were fetched whole because they were not what their primary has",
    "below_min_copies": "Changes refused because there would be fewer copies than `min_copies`",
}
"""Counts of the state manager that have a help text; one without is shown all the same."""

KINDS: Final = {
    "visits": ("What went otherwise than usual in requests, by name", "event"),
    "membership": ("What happened to the node's membership, by name", "event"),
    "affinity": (
        "Requests of known clients, by whether they came where their cookie says",
        "reason",
    ),
}
"""Counts that are one metric with a label: their names are words of the source."""


def text(engine: Engine, total: Counter[str]) -> bytes:
    """The metrics of the engine's node, which has counted `total`."""
    return exposed([*_counters(total), *_gauges(engine)])


def _counters(total: Counter[str]) -> Iterator[Metric]:
    kinds: dict[str, dict[str, int]] = {kind: {} for kind in ("state", "streams", *KINDS)}
    for key, count in sorted(total.items()):
        kind, _, name = key.partition("/")
        if kind in kinds:  # an engine of another version may have left more
            kinds[kind][name] = count
    for name, count in kinds.pop("state").items():
        yield CounterMetricFamily(f"sessionha_{name}", STATE.get(name, name), value=count)
    for name, count in kinds.pop("streams").items():
        meaning = f"{name.replace('_', ' ').capitalize()} on the streams between nodes"
        yield CounterMetricFamily(f"sessionha_stream_{name}", meaning, value=count)
    yield _detections(kinds["membership"])
    for kind, counts in kinds.items():
        meaning, label = KINDS[kind]
        family = CounterMetricFamily(f"sessionha_{kind}", meaning, labels=[label])
        for name, count in counts.items():
            if not name.startswith(DETECTIONS):
                family.add_metric([name], count)
        yield family


def _detections(counts: dict[str, int]) -> Metric:
    """Each failure falls into one range; Prometheus wants to know how many fall below each end."""
    buckets, below = [], 0
    for end in (*DETECTED, None):
        below += counts.get(detected(end), 0)
        buckets.append(("+Inf" if end is None else f"{end / 1000:g}", below))
    meaning = "From a member's last sign of life to a view without it, where it failed"
    return HistogramMetricFamily(
        "sessionha_detection_seconds",
        meaning,
        buckets=buckets,
        sum_value=counts.get(f"{DETECTIONS}_ms", 0) / 1000,
    )


def _health(engine: Engine) -> Iterator[Metric]:
    health = engine.state.redundancy.health()
    groups = GaugeMetricFamily(
        "sessionha_groups", "Groups that the node answers for, by their copies", labels=["health"]
    )
    size = GaugeMetricFamily(
        "sessionha_group_bytes", "Bytes of the sessions in these groups", labels=["health"]
    )
    for level in LEVELS:
        share = getattr(health, level)
        groups.add_metric([level], share.groups)
        size.add_metric([level], share.bytes)
    yield from (groups, size)
    delays = engine.state.delays.running()
    gauges = {
        "awaited_nodes": (
            sum(delay.left != 0 for delay in delays),
            "Absent nodes whose seats are kept",
        ),
        "next_healing_seconds": (
            min((delay.left for delay in delays if delay.left), default=0) / 1000,
            "Until the seats of the next one go to others; 0: none is counted down",
        ),
    }
    for name, (value, meaning) in gauges.items():
        yield GaugeMetricFamily(f"sessionha_{name}", meaning, value=value)


def _states(engine: Engine) -> Iterator[Metric]:
    """Every state each time, so that a graph shows the end of one."""
    own, view = engine.node_state, engine.membership.view()
    nodes = Counter(map(engine.membership.node_state, (*view.nodes, *strangers(engine, view))))
    mine = GaugeMetricFamily(
        "sessionha_state", "1 for the state that the node is in", labels=["state"]
    )
    seen = GaugeMetricFamily(
        "sessionha_nodes", "Nodes that this one knows, by their state", labels=["state"]
    )
    for state in NodeState:
        mine.add_metric([state], state is own)
        seen.add_metric([state], nodes[state])
    yield from (mine, seen)


def _recoverable(engine: Engine) -> Iterator[Metric]:
    """Absent until the drill has verified a copy: nothing is claimed that was not looked at."""
    found = engine.state.drill.found()
    if found is None or found.percent is None:
        return
    meaning = "Sessions that a takeover with the copies of this node would recover"
    yield GaugeMetricFamily("sessionha_recoverable_sessions_percent", meaning, value=found.percent)
    meaning = "For how long the copy that waits longest was not verified, at most"
    yield GaugeMetricFamily("sessionha_verified_oldest_seconds", meaning, value=found.oldest)


def _gauges(engine: Engine) -> Iterator[Metric]:
    settings, membership, store = engine.settings, engine.membership, store_of(engine)
    view, usage = membership.view(), store.usage()
    gauges = {
        "view_number": (view.id.number, "Number of the view that the node holds"),
        "members": (len(view.members), "Nodes in that view"),
        "member": (int(membership.is_member()), "Whether the node is in that view"),
        "leased": (int(membership.leased()), "Whether the node heard enough others to serve"),
        "voters": (len(view.voters), "Nodes whose majority decides the next view; 0: nobody votes"),
        "differing_descriptions": (
            len(membership.picture().differing),
            "Nodes that have had another description of the cluster for a while",
        ),
        "engines": (len(store.living_slots()), "Processes of the node that serve"),
        "backups_wanted": (engine.backups, "Copies that a change waits for"),
        "store_used_bytes": (usage.used, "Bytes that the store has in use"),
        "store_limit_bytes": (usage.limit, "Bytes in use at which new data is refused"),
    }
    for name, (value, meaning) in gauges.items():
        yield GaugeMetricFamily(f"sessionha_{name}", meaning, value=value)
    yield from _health(engine)
    yield from _recoverable(engine)
    yield from _states(engine)
    info = GaugeMetricFamily(
        "sessionha_info", "Who answers; always 1", labels=["cluster", "node", "version"]
    )
    info.add_metric([settings.cluster, settings.node, __version__], 1)
    yield info

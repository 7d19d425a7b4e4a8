"""The router's counts in the text format of Prometheus. Every label is bounded."""

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

from sessionha.exposition import exposed
from sessionha.router.counts import BOUNDS, Counts
from sessionha.router.upstreams import Upstreams
from sessionha.topology.health import NodeState

STATES: Final = (NodeState.READY, NodeState.SUSPECT, NodeState.FAILED, NodeState.DRAINING)
"""How a server can stand for a router by itself."""


def text(counts: Counts, upstreams: Upstreams) -> bytes:
    """The metrics of one process of the router."""
    return exposed([*_counters(counts), _times(counts), *_gauges(upstreams)])


def _counters(counts: Counts) -> Iterator[Metric]:
    answers = CounterMetricFamily(
        "sessionha_router_answers",
        "Answers by the server that gave them (`router`: itself) and the class of their status",
        labels=["server", "status"],
    )
    for (server, hundred), count in sorted(counts.answers.items()):
        answers.add_metric([server or "router", f"{hundred}xx"], count)
    yield answers
    for name, meaning, found in (
        (
            "refused",
            "Requests and connections that were refused, by what was wrong",
            counts.refused,
        ),
        ("repeats", "Requests that were sent once more, by why", counts.repeats),
    ):
        yield _labelled(f"sessionha_router_{name}", meaning, found)
    for name, meaning, value in (
        ("repeats_denied", "Repeats that the budget did not allow", counts.denied),
        ("full", "Requests that found no room at their server in time", counts.full),
        ("clients_gone", "Requests whose client did not wait for the answer", counts.gone),
        ("websockets", "Websockets that clients asked for", counts.sockets),
    ):
        yield CounterMetricFamily(f"sessionha_router_{name}", meaning, value=value)


def _labelled(name: str, meaning: str, found: Counter[str]) -> Metric:
    family = CounterMetricFamily(name, meaning, labels=["reason"])
    for reason, count in sorted(found.items()):
        family.add_metric([reason], count)
    return family


def _times(counts: Counts) -> Metric:
    buckets, below = [], 0
    for index, end in enumerate((*BOUNDS, None)):
        below += counts.took[index]
        buckets.append(("+Inf" if end is None else f"{end:g}", below))
    return HistogramMetricFamily(
        "sessionha_router_seconds",
        "From the head of a request to the end of its answer",
        buckets=buckets,
        sum_value=counts.seconds,
    )


def _gauges(upstreams: Upstreams) -> Iterator[Metric]:
    flight = GaugeMetricFamily(
        "sessionha_router_in_flight", "Requests and websockets at a server", labels=["server"]
    )
    queued = GaugeMetricFamily(
        "sessionha_router_queued", "Requests that wait for room at a server", labels=["server"]
    )
    states = GaugeMetricFamily(
        "sessionha_router_server_state",
        "1 for the state of a server as this router sees it by itself, 0 for the others",
        labels=["server", "state"],
    )
    for upstream in upstreams.all():
        name = upstream.target.name
        flight.add_metric([name], upstream.in_flight)
        queued.add_metric([name], upstream.queued)
        for state in STATES:
            states.add_metric([name, state], float(upstream.state is state))
    yield from (flight, queued, states)
    yield GaugeMetricFamily(
        "sessionha_router_view",
        "Number of the view that is followed",
        value=upstreams.view.id.number,
    )

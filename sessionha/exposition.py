"""Metrics in the text format of Prometheus, from families that are made for one answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def exposed(families: Iterable[Metric]) -> bytes:
    """The body of an answer with these metrics."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected([*families]))
    return generate_latest(registry)


class _Collected(Collector):
    """Families that exist already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families

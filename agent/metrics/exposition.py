"""The adapter of prometheus_client: readings as text, and the histograms that are counted where things happen.

Promises: nothing global: every instance has a registry of its own. Does not know: HTTP, where readings come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from agent.metrics.series import CNI_SECONDS, MetricType, Readings, series

BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)
"""Seconds: a warm ADD is some 10 ms, a runtime gives up after tens of seconds."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Exposition(Collector):
    """All series of one agent, in a registry of their own."""

    def __init__(self, read: Callable[[], Readings]) -> None:
        self._read = read
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        self._cni = Histogram(
            CNI_SECONDS.name,
            CNI_SECONDS.meaning,
            CNI_SECONDS.labels,
            buckets=BUCKETS,
            registry=self._registry,
        )

    def collect(self) -> Iterator[Metric]:
        """The series of this moment; prometheus_client asks a collector for them at each scrape."""
        for definition, samples in series(self._read()):
            kind = CounterMetricFamily if definition.type is MetricType.COUNTER else GaugeMetricFamily
            family = kind(definition.name, definition.meaning, labels=definition.labels)
            for labels, value in samples.items():
                family.add_metric(labels, value)
            yield family

    def answered(self, verb: str, code: int, seconds: float) -> None:
        """A CNI call was answered; code 0 is success."""
        self._cni.labels(verb, str(code)).observe(seconds)

    def text(self) -> bytes:
        """Everything, in Prometheus' text form."""
        return generate_latest(self._registry)

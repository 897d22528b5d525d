"""Counters and a histogram of guards, for Prometheus and OpenTelemetry. Both libraries are optional."""

from __future__ import annotations

import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from .findings import Finding

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from prometheus_client import CollectorRegistry

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
"""Upper bounds of the histogram's buckets: a pass takes as long as the period says, seconds to an hour."""


class Metrics:
    """What a guard tells while it works. Subclass it to feed another system.

    The methods are called by the thread of the guard, and by whoever calls ``check``. ``model`` is the name
    of the guard. An exception in one of them makes the guard fail.
    """

    def guarding(self, model: str, failed: bool) -> None:
        """The guard was made, or its health has changed."""

    def checked(self, model: str, nbytes: int, seconds: float) -> None:
        """A slice of ``nbytes`` was checked, for which the guard was busy for ``seconds``."""

    def completed(self, model: str, seconds: float) -> None:
        """The whole model was checked; the pass began ``seconds`` ago."""

    def found(self, model: str, finding: Finding) -> None:
        """There is a finding of any kind."""


class PrometheusMetrics(Metrics):
    """Metrics in a registry of ``prometheus_client``, by default the global one.

    Several guards may share the registry; each has its name as the label ``model``. The names are in
    docs/guide/guard.md. Needs ``pip install "integrity-triton[metrics]"``.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        try:
            import prometheus_client
        except ImportError as error:
            raise ImportError(f'{error}; pip install "integrity-triton[metrics]" brings it') from None
        registry = prometheus_client.REGISTRY if registry is None else registry
        with _lock:
            instruments = _instruments.get(registry)
            if instruments is None:  # a registry refuses a second metric of the same name
                instruments = _instruments[registry] = _prometheus_instruments(registry)
        self._of = instruments

    def guarding(self, model: str, failed: bool) -> None:
        self._of["failed"].labels(model).set(failed)
        for name in ("checked", "busy", "duration"):  # series exist from the beginning, with the value 0
            self._of[name].labels(model)

    def checked(self, model: str, nbytes: int, seconds: float) -> None:
        self._of["checked"].labels(model).inc(nbytes)
        self._of["busy"].labels(model).inc(seconds)

    def completed(self, model: str, seconds: float) -> None:
        self._of["duration"].labels(model).observe(seconds)
        self._of["last"].labels(model).set(time.time())

    def found(self, model: str, finding: Finding) -> None:
        self._of["findings"].labels(model, finding.kind).inc()


_lock = threading.Lock()
_instruments: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()


def _prometheus_instruments(registry: CollectorRegistry) -> dict[str, Any]:
    from prometheus_client import Counter, Gauge, Histogram

    prefix = "integrity_triton_guard_"

    def made(kind: Any, name: str, doc: str, *labels: str, **options: Any) -> Any:
        return kind(prefix + name, doc, ["model", *labels], registry=registry, **options)

    return {
        "checked": made(Counter, "checked_bytes", "Bytes of weights that were checked."),
        "busy": made(Counter, "busy_seconds", "Time for which the guard read and hashed weights."),
        "findings": made(Counter, "findings", "Findings of the guard.", "kind"),
        "failed": made(Gauge, "failed", "1 if the weights are not those of the baseline, otherwise 0."),
        "last": made(
            Gauge,
            "last_pass_timestamp_seconds",
            "When the whole model was last checked, in seconds since the epoch.",
        ),
        "duration": made(
            Histogram,
            "pass_duration_seconds",
            "Time from the beginning to the end of a pass over the whole model.",
            buckets=_SECONDS,
        ),
    }


class OpenTelemetryMetrics(Metrics):
    """Metrics of an OpenTelemetry meter, by default of the global provider.

    ``hw.errors`` counts the findings that are faults of memory, with the attributes that the semantic
    conventions for hardware metrics require (OpenTelemetry semantic conventions 1.44, docs/hardware):
    ``hw.id``, ``hw.type`` (``gpu`` or ``memory``) and ``error.type``, which is ``uncorrected`` for a lasting
    change and ``transient`` for one that a second reading did not find. ``hw_ids`` gives the ``hw.id`` of a
    torch device, for example the UUID of a GPU; without it, the name that torch uses is taken. All findings
    are in ``integrity_triton.guard.findings``. Needs ``pip install "integrity-triton[metrics]"``.
    """

    def __init__(
        self, provider: MeterProvider | None = None, *, hw_ids: dict[str, str] | None = None
    ) -> None:
        try:
            from opentelemetry import metrics
        except ImportError as error:
            raise ImportError(f'{error}; pip install "integrity-triton[metrics]" brings it') from None
        from ..._version import __version__

        meter = (provider or metrics.get_meter_provider()).get_meter("integrity_triton", __version__)
        self._ids = dict(hw_ids or {})
        self._errors = meter.create_counter(
            "hw.errors", "{error}", "Number of errors encountered by the component."
        )
        self._findings = meter.create_counter(
            "integrity_triton.guard.findings", "{finding}", "Findings of the guard."
        )
        self._checked = meter.create_counter(
            "integrity_triton.guard.checked", "By", "Bytes of weights that were checked."
        )
        self._busy = meter.create_counter(
            "integrity_triton.guard.busy", "s", "Time for which the guard read and hashed weights."
        )
        self._failed = meter.create_gauge(
            "integrity_triton.guard.failed",
            "1",
            "1 if the weights are not those of the baseline, otherwise 0.",
        )
        self._duration = meter.create_histogram(
            "integrity_triton.guard.pass.duration",
            "s",
            "Time from the beginning to the end of a pass over the whole model.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )

    def guarding(self, model: str, failed: bool) -> None:
        self._failed.set(int(failed), {_MODEL: model})

    def checked(self, model: str, nbytes: int, seconds: float) -> None:
        self._checked.add(nbytes, {_MODEL: model})
        self._busy.add(seconds, {_MODEL: model})

    def completed(self, model: str, seconds: float) -> None:
        self._duration.record(seconds, {_MODEL: model})

    def found(self, model: str, finding: Finding) -> None:
        self._findings.add(1, {_MODEL: model, "integrity_triton.guard.finding": finding.kind})
        kind = _ERROR_TYPES.get(finding.kind)
        if kind is not None and finding.device is not None:
            on_host = finding.device == "cpu"
            default = "memory" if on_host else finding.device
            self._errors.add(
                1,
                {
                    "hw.id": self._ids.get(finding.device, default),
                    "hw.type": "memory" if on_host else "gpu",
                    "error.type": kind,
                },
            )


_MODEL = "integrity_triton.guard.model"
_ERROR_TYPES = {"content": "uncorrected", "baseline": "uncorrected", "transient": "transient"}

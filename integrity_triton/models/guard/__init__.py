"""A guard over live weights: it checks them again and again, in slices, while they are used.

``docs/guide/guard.md`` says what it finds, what it costs and what it does not protect. Importing this package
imports neither torch nor a library for metrics.
"""

from __future__ import annotations

from .findings import Finding, GuardStatus, GuardWarning
from .guard import Guard
from .metrics import Metrics, OpenTelemetryMetrics, PrometheusMetrics

__all__ = [
    "Finding",
    "Guard",
    "GuardStatus",
    "GuardWarning",
    "Metrics",
    "OpenTelemetryMetrics",
    "PrometheusMetrics",
]

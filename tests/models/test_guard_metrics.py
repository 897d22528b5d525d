"""Metrics of the guard, read as their consumers read them: a scrape over HTTP, and OpenTelemetry's SDK."""

from __future__ import annotations

import urllib.request

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("blake3")

from guard_support import flip, model, wait_for  # noqa: E402
from integrity_triton.models.guard import Guard, OpenTelemetryMetrics, PrometheusMetrics  # noqa: E402

PREFIX = "integrity_triton_guard_"


@pytest.fixture
def scraped():
    """A registry, and a function that scrapes it from a real server and parses the answer."""
    client = pytest.importorskip(
        "prometheus_client", reason="prometheus_client, of the metrics extra, is absent"
    )
    from prometheus_client.parser import text_string_to_metric_families

    registry = client.CollectorRegistry()
    server, thread = client.start_http_server(0, "127.0.0.1", registry)

    def scrape():
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=30) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        # The client adds when each counter was made.
        types = {f.name: f.type for f in families if not f.name.endswith("_created")}
        samples = {
            (s.name, *(s.labels[k] for k in sorted(s.labels))): s.value
            for family in families
            for s in family.samples
        }
        return types, samples

    yield registry, scrape
    server.shutdown()
    server.server_close()
    thread.join()


def test_prometheus_scrapes_what_the_guard_did(scraped):
    registry, scrape = scraped
    source = model()
    metrics = PrometheusMetrics(registry)
    guard = Guard(source, chunk_size=1024, period=1.0, metrics=metrics, name="small")
    other = Guard(model(), metrics=[PrometheusMetrics(registry)], name="other", start=False)
    types, samples = scrape()
    assert types == {
        PREFIX + "checked_bytes": "counter",
        PREFIX + "busy_seconds": "counter",
        PREFIX + "findings": "counter",
        PREFIX + "failed": "gauge",
        PREFIX + "last_pass_timestamp_seconds": "gauge",
        PREFIX + "pass_duration_seconds": "histogram",
    }
    assert samples[PREFIX + "failed", "small"] == samples[PREFIX + "failed", "other"] == 0
    wait_for(lambda: guard.status().passes)
    flip(source.layers[0].weight, 0)
    wait_for(lambda: guard.failed)
    guard.close()
    status = guard.status()
    _, samples = scrape()
    assert samples[PREFIX + "failed", "small"] == 1
    assert samples[PREFIX + "findings_total", "content", "small"] == 1
    assert samples[PREFIX + "checked_bytes_total", "small"] == status.checked_bytes >= status.nbytes
    assert samples[PREFIX + "busy_seconds_total", "small"] == pytest.approx(status.busy_seconds)
    assert samples[PREFIX + "pass_duration_seconds_count", "small"] == status.passes
    assert samples[PREFIX + "pass_duration_seconds_bucket", "+Inf", "small"] == status.passes
    assert samples[PREFIX + "last_pass_timestamp_seconds", "small"] > 1.7e9
    assert samples[PREFIX + "checked_bytes_total", "other"] == 0
    guard = Guard(source, metrics=metrics, name="small", start=False)
    assert scrape()[1][PREFIX + "failed", "small"] == 0
    other.close()


def test_opentelemetry_counts_hardware_errors():
    sdk = pytest.importorskip("opentelemetry.sdk.metrics", reason="opentelemetry-sdk is absent")
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    provider = sdk.MeterProvider([reader])
    source = model()
    guard = Guard(
        source,
        chunk_size=1024,
        metrics=OpenTelemetryMetrics(provider, hw_ids={"cpu": "DIMM_A1"}),
        start=False,
    )
    flip(source.layers[0].weight, 0)
    flip(source.layers[1].weight, 0)
    source.layers[0].bias = torch.nn.Parameter(torch.ones(64))
    guard.check()
    (resource,) = reader.get_metrics_data().resource_metrics
    (scope,) = resource.scope_metrics
    assert scope.scope.name == "integrity_triton"
    found = {metric.name: metric for metric in scope.metrics}
    errors = found["hw.errors"]
    assert errors.unit == "{error}" and errors.data.is_monotonic
    (point,) = errors.data.data_points
    assert point.value == 2, "a tensor that was replaced is no fault of the hardware"
    assert dict(point.attributes) == {
        "hw.id": "DIMM_A1",
        "hw.type": "memory",
        "error.type": "uncorrected",
    }
    kinds = {
        p.attributes["integrity_triton.guard.finding"]: p.value
        for p in found["integrity_triton.guard.findings"].data.data_points
    }
    assert kinds == {"content": 2, "moved": 1, "replaced": 1}
    assert found["integrity_triton.guard.checked"].unit == "By"
    assert found["integrity_triton.guard.failed"].data.data_points[0].value == 1
    duration = found["integrity_triton.guard.pass.duration"].data.data_points[0]
    assert duration.count == 1 and duration.explicit_bounds[0] == 0.1


def test_the_attributes_are_those_of_the_semantic_conventions():
    semconv = pytest.importorskip("opentelemetry.semconv._incubating.metrics.hw_metrics")
    from opentelemetry.semconv._incubating.attributes import hw_attributes

    assert semconv.HW_ERRORS == "hw.errors"
    assert (hw_attributes.HW_ID, hw_attributes.HW_TYPE) == ("hw.id", "hw.type")
    assert {"gpu", "memory"} <= {kind.value for kind in hw_attributes.HwTypeValues}

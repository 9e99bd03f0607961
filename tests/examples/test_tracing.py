"""A trace of the shop: from the gateway through a service to its database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

from passerelle.observability.tracing import exporter as exporter_module
from tests.conformance.conftest import loop, rig
from tests.examples.conftest import SHOP
from tests.examples.test_behind_gateway import NAMES, serving
from tests.support.collector import Collector
from tests.support.gateways import Rig

__all__ = ["loop", "rig"]

ROUTES = yaml.safe_load((SHOP / "gateway.yaml").read_text())["routes"]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setattr(exporter_module, "BATCH_SECONDS", 0.02)
    collector = Collector()
    yield collector
    collector.close()


def test_a_trace_goes_from_the_gateway_through_both_services_to_their_databases(
    rig: Rig, collector: Collector, tmp_path: Path
) -> None:
    from shopkit.prepare import prepare
    from shopkit.service import create_app, engine_of

    with ExitStack() as stack:
        targets = {}
        for service, name in NAMES.items():
            url = f"sqlite:///{tmp_path / name}.db"
            prepare(name, url, seeds=True)
            provider = TracerProvider(ParentBased(ALWAYS_OFF), Resource.create({"service.name": name}))
            provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(collector.endpoint)))
            stack.callback(provider.shutdown)
            app = create_app(name, url, provider=provider)
            stack.callback(engine_of(app).dispose)
            targets[service] = {"targets": [stack.enter_context(serving(app))]}
        gateway = rig.gateway(targets, ROUTES, tracing={"endpoint": collector.endpoint, "sample": "100%"})
        client = rig.connect(gateway)
        assert client.request("GET", "/api/1/1").status == 200
        spans = collector.wait(10)
        assert client.request("GET", "/user?limit=2").status == 200  # through SQLAlchemy, not the driver alone
        spans = collector.wait(14)
        gateway.stop()
    by_id = {span.span_id: span for span in spans}
    statements = [span for span in spans if "db.query.text" in span.attributes]
    assert len(statements) == 3
    paths = set()
    for span in statements:
        path = [span]
        while path[-1].parent_id:
            path.append(by_id[path[-1].parent_id])
            assert path[-1].start <= span.start and path[-1].trace_id == span.trace_id
        paths.add(tuple(f"{each.resource['service.name']}: {each.name}" for each in reversed(path)))
    composed = "passerelle: GET /api/{user_id}/{product_id}"
    assert paths == {
        (composed, "passerelle: part user", "passerelle: GET", "users: GET /user/<identity>", "users: SELECT"),
        (
            composed,
            "passerelle: part product",
            "passerelle: GET",
            "products: GET /product/<identity>",
            "products: SELECT",
        ),
        ("passerelle: GET /user", "passerelle: GET", "users: GET /user", "users: SELECT"),
    }


def test_an_unsampled_request_is_not_recorded_by_the_services(collector: Collector, tmp_path: Path) -> None:
    from shopkit.prepare import prepare
    from shopkit.service import create_app, engine_of

    url = f"sqlite:///{tmp_path / 'users'}.db"
    prepare("users", url, seeds=True)
    provider = TracerProvider(ParentBased(ALWAYS_OFF))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(collector.endpoint)))
    app = create_app("users", url, provider=provider)
    try:
        fields = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-00"}
        assert app.test_client().get("/user/1", headers=fields).status_code == 200
        assert app.test_client().get("/user/1").status_code == 200
    finally:
        provider.shutdown()
        engine_of(app).dispose()
    assert collector.spans == []

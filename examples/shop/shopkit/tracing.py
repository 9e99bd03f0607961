"""Traces with the OpenTelemetry SDK: a span for each request, child of the gateway's, and one for each statement.

On if ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set; otherwise the SDK is not imported. The sampler is parent based: what the
gateway records is recorded here too, and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flask import Flask, Response, g, request
from sqlalchemy import Engine, event

Lookup = Callable[[dict[str, Any]], Sequence[Any] | None]


def wanted(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether traces are on."""
    return bool(environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"))


def provider_of(service: str) -> Any:
    """Return a tracer provider that exports the spans of ``service`` to the collector of the environment."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

    provider = TracerProvider(ParentBased(ALWAYS_OFF), Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=1000))
    return provider


def install(app: Flask, engine: Engine, provider: Any) -> None:
    """Record the requests of ``app`` and the statements of ``engine`` with ``provider``."""
    from opentelemetry import context, trace
    from opentelemetry.trace import SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    tracer = provider.get_tracer("shop")
    continued = TraceContextTextMapPropagator()

    def begin() -> None:
        parent = continued.extract({name.lower(): value for name, value in request.headers.items()})
        route = request.url_rule.rule if request.url_rule is not None else ""
        attributes = {"http.request.method": request.method, "http.route": route, "url.path": request.path}
        span = tracer.start_span(f"{request.method} {route}".rstrip(), parent, SpanKind.SERVER, attributes)
        g.span, g.token = span, context.attach(trace.set_span_in_context(span))

    def status(response: Response) -> Response:
        span = trace.get_current_span()
        span.set_attribute("http.response.status_code", response.status_code)
        if response.status_code >= 500:
            span.set_status(Status(StatusCode.ERROR))
        return response

    def end(_: BaseException | None) -> None:
        if "span" in g:
            context.detach(g.pop("token"))
            g.pop("span").end()

    app.before_request(begin)
    app.after_request(status)
    app.teardown_request(end)

    def started(_c: Any, _cursor: Any, statement: str, _p: Any, execution: Any, _many: bool) -> None:
        execution.span = _statement(tracer, engine, statement)

    def ended(_c: Any, _cursor: Any, _statement: str, _p: Any, execution: Any, _many: bool) -> None:
        execution.span.end()

    def failed(failure: Any) -> None:
        span = getattr(failure.execution_context, "span", None)
        if span is not None:
            span.set_status(Status(StatusCode.ERROR))
            span.end()

    engine.update_execution_options(tracing=provider)  # for statements that the driver runs without SQLAlchemy
    event.listen(engine, "before_cursor_execute", started)
    event.listen(engine, "after_cursor_execute", ended)
    event.listen(engine, "handle_error", failed)


def traced_lookup(first: Lookup, engine: Engine, statement: str, provider: Any) -> Lookup:
    """Return ``first``, whose ``statement`` the driver runs without SQLAlchemy, with a span for each call."""
    tracer = provider.get_tracer("shop")

    def traced(parameters: dict[str, Any]) -> Sequence[Any] | None:
        span = _statement(tracer, engine, statement)
        try:
            return first(parameters)
        finally:
            span.end()

    return traced


def _statement(tracer: Any, engine: Engine, statement: str) -> Any:
    """Begin the span of ``statement``, which has no values: all of them are bound parameters."""
    from opentelemetry.trace import SpanKind

    operation = statement.split(None, 1)[0].upper()
    attributes = {"db.system.name": engine.dialect.name, "db.operation.name": operation, "db.query.text": statement}
    return tracer.start_span(operation, kind=SpanKind.CLIENT, attributes=attributes)

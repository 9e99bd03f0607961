"""Alerts: conditions on what the gateway measures, and the webhook that they call."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator
from pydantic.json_schema import WithJsonSchema

from passerelle.config.models.base import Model, Shape, Takes, given, raise_first
from passerelle.config.models.guards import OneOrMore
from passerelle.config.models.units import Duration, Percent, duration_text
from passerelle.config.models.values import ServiceName, Text, WholeNumber

MEASURES = ("error_rate", "p99", "certificate_days", "restarts")
"""A rule has exactly one of these."""

_LONGEST = 3600.0  # seconds; the values of a window are kept, one a second
_WINDOWS = {"restarts": 600.0}
_WINDOW = 60.0


def _window(seconds: float) -> float:
    if not 1.0 <= seconds <= _LONGEST:
        raise ValueError(f"found {duration_text(seconds)}; allowed is a duration from 1s to {duration_text(_LONGEST)}")
    return seconds


def _url(text: str) -> str:
    """Check the address of a webhook. Messages never show it, because it may contain a secret."""
    allowed = "allowed is an http:// or https:// address without a user name"
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"found an address with characters that an address cannot have; {allowed}")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(f"found no address; {allowed}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or "@" in parts.netloc:
        raise ValueError(f"found another kind of address; {allowed}")
    return text


def _secret(text: str) -> str:
    if not text or len(text) > 512 or not all("!" <= letter <= "~" for letter in text):
        raise ValueError("a secret has 1 to 512 visible ASCII characters and no blanks (it is not shown)")
    return text


def rule_shape(keys: set[str]) -> Shape:
    """Check which keys a rule combines."""
    found = [key for key in MEASURES if key in keys]
    if not found:
        return [(None, f"a rule needs one of {', '.join(MEASURES)}; found none of them")]
    if len(found) > 1:
        return [(key, f"found together with {found[0]}; a rule has one of {', '.join(MEASURES)}") for key in found[1:]]
    wrong = {
        "error_rate": (),
        "p99": ("requests",),
        "certificate_days": ("requests", "window", "route", "service"),
        "restarts": ("requests", "route"),
    }[found[0]]
    findings: Shape = [
        (key, f"found together with {found[0]}, where it has no meaning") for key in wrong if key in keys
    ]
    if {"route", "service"} <= keys - set(wrong):
        findings.append(("service", "found together with route; allowed is one of them"))
    return findings


class Alert(Model):
    """A condition, with one of `error_rate`, `p99`, `certificate_days` and `restarts`."""

    name: Annotated[Text, Field(min_length=1, max_length=100)] | None = Field(
        default=None, description="Name in events, metrics and the webhook; by default made from the other keys."
    )
    error_rate: Percent | None = Field(
        default=None, description="Fires when a larger share of requests than this ends with a 5xx status."
    )
    p99: Duration | None = Field(
        default=None, description="Fires when the 99th percentile of the latency is above this."
    )
    certificate_days: Annotated[int, WholeNumber(1, 365)] | None = Field(
        default=None, description="Fires when a certificate of the configuration is valid for no more days than this."
    )
    restarts: Annotated[int, WholeNumber(1, 1000)] | None = Field(
        default=None, description="Fires when one instance or worker was restarted this often."
    )
    window: Annotated[Duration, AfterValidator(_window)] | None = Field(
        default=None,
        description="The time that is judged, at most `1h`; by default `1m`, with `restarts` `10m`.",
    )
    requests: Annotated[int, WholeNumber(1, 1_000_000)] = Field(
        default=10, description="With fewer requests than this in the window, `error_rate` does not fire."
    )
    route: Annotated[Text, Takes("name of a route, as in metrics")] | None = Field(
        default=None, description="The route; without `route` and `service`, all requests count."
    )
    service: ServiceName | None = Field(
        default=None, description="The service; its requests are the attempts that the gateway makes."
    )

    @property
    def measure(self) -> str:
        """The key that states what is measured."""
        return next(key for key in MEASURES if getattr(self, key) is not None)

    @property
    def threshold(self) -> float:
        """The value of that key."""
        return float(getattr(self, self.measure))

    @property
    def seconds(self) -> float:
        """The window, in seconds."""
        return self.window if self.window is not None else _WINDOWS.get(self.measure, _WINDOW)

    @property
    def label(self) -> str:
        """The name, given or made."""
        if self.name is not None:
            return self.name
        scope = self.route or self.service
        return self.measure + (f" of {scope}" if scope else "")

    @model_validator(mode="after")
    def _shape(self) -> Alert:
        raise_first(rule_shape(given(self)))
        return self


class Webhook(Model):
    """Where alerts are sent: a `POST` with JSON."""

    url: Annotated[
        Text,
        AfterValidator(_url),
        WithJsonSchema({"type": "string", "pattern": "^https?://"}),
        Takes("`https://` or `http://` address"),
    ] = Field(repr=False, description="The address; it may come from `${file:…}`.")
    secret: Annotated[Text, AfterValidator(_secret)] | None = Field(
        default=None,
        repr=False,
        description="Sent in `Authorization: Bearer`; preferably as `${file:…}`.",
    )
    timeout: Duration = Field(default=5.0, description="Time for one attempt.")


class AlertSettings(Model):
    """Alerts and their webhook."""

    rules: Annotated[tuple[Alert, ...], OneOrMore, Takes("list of [rules](#alerts)")] = Field(
        min_length=1, max_length=100, description="The conditions, at most 100."
    )
    webhook: Annotated[Webhook, Takes("[mapping](#webhook)")] | None = Field(
        default=None, description="Receives each alert that fires or is resolved; by default they are events only."
    )


def shapes(found: Any) -> list[tuple[int, str | None, str]]:
    """Check the rules in ``found``, the unchecked value of ``alerts``: the index, the key and the message."""
    rules = found.get("rules") if isinstance(found, dict) else None
    return [
        (index, key, message)
        for index, rule in enumerate(rules if isinstance(rules, list) else [rules])
        if isinstance(rule, dict) and set(rule) <= set(Alert.model_fields)
        for key, message in rule_shape(set(rule))
    ]

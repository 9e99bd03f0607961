"""Builds the actions of routes without a service."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import cast

import orjson

from passerelle.actions.folder import segments_of
from passerelle.actions.interfaces import Action, ActionExchange, BodyReceiver, Encoder
from passerelle.actions.maintenance import refuse_for_maintenance
from passerelle.actions.redirect import Redirect, RedirectTarget
from passerelle.actions.respond import Respond
from passerelle.actions.static import Static
from passerelle.actions.static import StaticSettings as Served
from passerelle.config.models.actions import Redirect as RedirectSettings
from passerelle.config.models.actions import Respond as RespondSettings
from passerelle.config.models.actions import Static as StaticSettings
from passerelle.config.models.config import Config, Route
from passerelle.errors import CannotStart
from passerelle.gateway.assembly.headers import rule_of
from passerelle.gateway.compression import ResponseEncoder
from passerelle.gateway.error_pages import ErrorPages
from passerelle.gateway.plans import ActionPlan, RoutePlan, SplitPlan
from passerelle.http.content_coding import CodingRule
from passerelle.http.messages import Fields
from passerelle.http1.head import RequestHead
from passerelle.proxy_cache.interfaces import CacheClient
from passerelle.routing.paths import REST, Pattern, Template
from passerelle.security.addresses import Proxies


def error_pages(config: Config) -> ErrorPages | None:
    """Read the pages for errors; None without any.

    :raises CannotStart: if a file cannot be read.
    """
    pages: dict[int, bytes] = {}
    for status, path in config.errors.items():
        try:
            pages[int(status.removesuffix("xx"))] = path.read_bytes()
        except OSError as error:
            raise CannotStart(f"errors: cannot read {path}: {error.strerror}") from error
    return ErrorPages(pages) if pages else None


def with_pages(plan: RoutePlan, pages: ErrorPages) -> RoutePlan:
    """Return ``plan`` with pages for its errors; a split has them on each side."""
    if isinstance(plan, SplitPlan):
        plan = replace(plan, plans={sides: replace(each, error_pages=pages) for sides, each in plan.plans.items()})
    return replace(plan, error_pages=pages)


def in_maintenance(plan: RoutePlan) -> ActionPlan:
    """Return the plan of the same route while it is in maintenance: guards do not run, and nothing is stored."""
    fixed = (plan.metrics, plan.log, sys.maxsize, (), None, None, plan.response_rules, plan.preflight, None)
    return ActionPlan(*fixed, refuse_for_maintenance, error_pages=plan.error_pages)


def action_of(config: Config, route: Route) -> Action | None:
    """Build the action of ``route``; None for a route of another kind."""
    if route.redirect is not None:
        return Redirect(route.redirect.status, _target(route, route.redirect), Proxies(config.trusted_proxies))
    rule = rule_of(route.compress)
    encoder = None if rule is None else _encoder(rule)
    if route.respond is not None:
        return _respond(route.respond, encoder)
    return Static(_static(route, route.static), encoder) if route.static is not None else None


def _target(route: Route, settings: RedirectSettings) -> RedirectTarget:
    rest = frozenset(segment.text for segment in Pattern.parse(route.path).segments if segment.kind == REST)
    return RedirectTarget(
        settings.scheme.encode() if settings.scheme is not None else None,
        settings.host.encode() if settings.host is not None else None,
        settings.www,
        Template(settings.path, rest) if settings.path is not None else None,
        settings.query == "keep",
    )


def _static(route: Route, settings: StaticSettings) -> Served:
    rest = [segment.text for segment in Pattern.parse(route.path).segments if segment.kind == REST]
    return Served(
        os.fsencode(settings.folder),
        Template(route.rewrite, frozenset(rest)) if route.rewrite is not None else None,
        rest[0] if rest else None,
        tuple(os.fsencode(name) for name in settings.index),
        tuple(text.removeprefix("{path}").encode("ascii") for text in settings.try_files),
        segments_of(settings.fallback[1:].encode("ascii")) if settings.fallback is not None else None,
        tuple(name.encode("ascii") for name in settings.precompressed),
    )


def _respond(settings: RespondSettings, encoder: Encoder | None) -> Respond:
    body, media_type = b"", b""
    if isinstance(settings.body, str):
        body, media_type = settings.body.encode(), b"text/plain; charset=utf-8"
    elif settings.body is not None:
        body, media_type = orjson.dumps(settings.body), b"application/json"
    fields: Fields = [(name.encode("ascii"), value.encode("ascii")) for name, value in settings.headers.items()]
    if media_type and all(name.lower() != b"content-type" for name, _ in fields):
        fields.insert(0, (b"Content-Type", media_type))
    return Respond(settings.status, fields, body, encoder)


def _encoder(rule: CodingRule) -> Encoder:
    """Return what compresses the responses of an action by ``rule``."""

    def receiver(exchange: ActionExchange) -> BodyReceiver:
        call = exchange.guarded_call()
        head = cast(RequestHead, call.head)
        return ResponseEncoder(cast(CacheClient, exchange), rule, call.method, head, None)

    return receiver

"""Builds the redirects to https of listeners."""

from __future__ import annotations

import sys
from collections.abc import Callable

from passerelle.actions.redirect import Redirect, RedirectTarget
from passerelle.config.models.config import Config
from passerelle.gateway.assembly.headers import response_header_rules
from passerelle.gateway.context import Context
from passerelle.gateway.https_redirect import HttpsRedirect, RedirectKey
from passerelle.gateway.plans import ActionPlan
from passerelle.http1.interfaces import RequestHandler
from passerelle.observability.access_log import RouteLog
from passerelle.observability.metrics import Metrics
from passerelle.routing.router import Router, RouteRule

LABEL = "https_redirect"
"""The route of redirected requests in metrics and in the access log."""


def with_redirects(
    config: Config,
    handler: RequestHandler,
    context: Context,
    metrics: Metrics,
    log: Callable[[str, str | None], RouteLog | None],
) -> RequestHandler:
    """Return ``handler``, or one that redirects in front of it if a listener of ``config`` does."""
    kinds = {
        (each.https_redirect, config.redirect_port(each)) for each in config.listen if each.https_redirect is not None
    }
    if not kinds:
        return handler
    contexts: dict[RedirectKey, Context] = {}
    for status, port in kinds:
        target = RedirectTarget(scheme=b"https", port=port if port != 443 else None)
        action = Redirect(status, target, context.proxies)
        rules = response_header_rules(config, None)
        fixed = (metrics.route(LABEL), log(LABEL, None), sys.maxsize, (), None, None, rules, None, None)
        plan = ActionPlan(*fixed, action, error_pages=context.unmatched.error_pages)
        # Only to hosts that a route has: a client that names another host is not sent there.
        hosts = {host.encode("ascii") if host else None for route in config.routes for host in route.hosts}
        if None in hosts:
            hosts = {None}
        router = Router(RouteRule(host, None, "/{path*}", plan, keeps_slashes=True) for host in hosts)
        contexts[status, port] = Context(context.loop, context.clock, context.proxies, router, context.unmatched, None)
    return HttpsRedirect(handler, contexts)

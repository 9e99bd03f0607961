"""Checks of routes that the gateway handles without a service."""

from __future__ import annotations

import os
from collections.abc import Iterator

from passerelle.config.models.actions import Redirect, Respond, Static
from passerelle.config.models.base import given
from passerelle.config.models.config import Config, Route
from passerelle.config.problems import Finding, Loc


def action_errors(loc: Loc, route: Route) -> Iterator[Finding]:
    """Check the action of the route at ``loc``."""
    if route.redirect is not None:
        yield from _redirect((*loc, "redirect"), route, route.redirect)
    if route.respond is not None:
        yield from _respond((*loc, "respond"), route.respond)
    if route.static is not None:
        yield from _static(loc, route, route.static)


def _redirect(loc: Loc, route: Route, redirect: Redirect) -> Iterator[Finding]:
    keys = given(redirect)
    if "host" in keys and "www" in keys:
        yield Finding((*loc, "www"), "found together with host; write the host with or without www")
    if not keys & {"scheme", "host", "www", "path"} and redirect.query == "keep":
        yield Finding(loc, "found none of scheme, host, www, path; it would lead to the URL of the request")
    for host in route.host or () if redirect.www is not None else ():
        has = host.startswith("www.")
        if not host.startswith("*.") and has == (redirect.www == "add"):
            what = "has www already" if has else "has no www"
            yield Finding((*loc, "www"), f"found {redirect.www}; the host of the route, {host}, {what}")


def _respond(loc: Loc, respond: Respond) -> Iterator[Finding]:
    if respond.status in (204, 205) and respond.body is not None:
        yield Finding((*loc, "body"), f"found together with status: {respond.status}, which has no body")


def _static(loc: Loc, route: Route, static: Static) -> Iterator[Finding]:
    if not os.path.isdir(static.folder):
        why = "it is not a folder" if os.path.exists(static.folder) else "no such folder"
        yield Finding((*loc, "static", "folder"), f"cannot serve {static.folder}: {why}", here=True)
    for index, method in enumerate(route.methods or ()):
        if method not in ("GET", "HEAD"):
            yield Finding((*loc, "methods", index), f"found {method!r}; a static route accepts GET and HEAD only")
    for key in ("index", "try_files", "precompressed"):
        values = getattr(static, key)
        for index, value in enumerate(values):
            if value in values[:index]:
                yield Finding((*loc, "static", key, index), f"found {value!r} twice; list it once")


def action_warnings(config: Config) -> Iterator[Finding]:
    """Find redirects that probably lead back to themselves."""
    for index, route in enumerate(config.routes):
        redirect = route.redirect
        if redirect is None or redirect.path is None:
            continue
        if given(redirect) & {"scheme", "host", "www"} or redirect.path != route.plain_path:
            continue
        yield Finding(("routes", index, "redirect", "path"), "it is the path of the route; the redirect would loop")

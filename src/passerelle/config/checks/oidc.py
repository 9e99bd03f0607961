"""Checks of logins with an identity provider."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from passerelle.config.models.config import Route
from passerelle.config.models.oidc import Oidc
from passerelle.config.models.sessions import Sessions
from passerelle.config.problems import Finding

_STEPS = re.compile(r"(/[^{}]*)?/\{[A-Za-z_][A-Za-z0-9_]*\}").fullmatch


def oidc_errors(
    oidc: Oidc, sessions: Sessions | None, blocks: frozenset[str], routes: Sequence[Route]
) -> Iterator[Finding]:
    """Check ``oidc``: it needs sessions, and one route for the steps of a login."""
    if "sessions" not in blocks:
        yield Finding(("oidc",), "found oidc; it needs sessions: at the top level of the file", at_key=True)
    if "openid" not in oidc.scopes:
        yield Finding(("oidc", "scopes"), "found no openid; without it, the provider sends no ID token")
    if oidc.origin.startswith("http:") and sessions is not None and not sessions.insecure:
        yield Finding(("oidc", "origin"), "found http; browsers send the cookies of sessions over https only")
    steps = [route for route in routes if route.oidc]
    if len(steps) != 1:
        found = f"{len(steps)} routes with oidc: true" if steps else "no route with oidc: true"
        example = "{path: '/oidc/{step}', oidc: true}"
        yield Finding(("oidc",), f"found {found}; one is needed, such as {example}", at_key=True)
    elif not _STEPS(steps[0].path):
        message = f"found oidc with the path {steps[0].path}; it must end in one parameter, such as /oidc/{{step}}"
        yield Finding(("oidc",), message, at_key=True)

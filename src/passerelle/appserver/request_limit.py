"""The number of requests after which an instance is replaced, against memory that an application leaks."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

from passerelle.appserver import wsgi


def with_jitter(limit: int, jitter: int | None, rng: Callable[[int, int], int]) -> int:
    """Return ``limit`` plus a random part of ``jitter`` (by default a tenth of the limit).

    The jitter prevents that all instances of a service are replaced at the same time. ``rng(a, b)`` returns a number
    between both, inclusive.
    """
    return limit + rng(0, limit // 10 if jitter is None else jitter)


def counted_wsgi(application: wsgi.Application, limit: int, reached: Callable[[], None]) -> wsgi.Application:
    """Return ``application`` with ``reached`` called when the call with the number ``limit`` begins, in its thread."""
    numbers = itertools.count(1)  # next() is atomic

    def call(environ: wsgi.Environ, start_response: Callable[..., Any]) -> Any:
        if next(numbers) == limit:
            reached()
        return application(environ, start_response)

    return call


def counted_asgi(
    application: Callable[..., Awaitable[None]], limit: int, reached: Callable[[], None]
) -> Callable[..., Awaitable[None]]:
    """Return ``application`` with ``reached`` called when the request with the number ``limit`` begins."""
    numbers = itertools.count(1)

    def call(scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        if scope["type"] != "lifespan" and next(numbers) == limit:
            reached()
        return application(scope, receive, send)

    return call

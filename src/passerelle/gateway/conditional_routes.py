"""Chooses among the routes of a request by their conditions, where host, path and method leave several."""

from __future__ import annotations

from collections.abc import Callable

from passerelle.errors import Failure, Kind
from passerelle.http.messages import list_members
from passerelle.http1.head import RequestHead
from passerelle.routing.conditions import Condition, RoutedRequest
from passerelle.routing.paths import EncodedSlashError
from passerelle.routing.router import NOT_FOUND, RouteMatch, Router
from passerelle.security.guard import RequestRefused


def choose(
    router: Router,
    match: RouteMatch,
    method: bytes,
    path: bytes,
    head: RequestHead,
    target: bytes,
    address: Callable[[], bytes],
) -> RouteMatch:
    """Return the most specific match whose conditions hold; ``match`` is the one of the router, without a value.

    Raise the refusal where there is none: 404, or 405 with the methods of routes whose conditions hold.
    """
    if match is not NOT_FOUND and router.conditional:
        place = path if path != b"*" else b"/"
        request = _request(head, target, address, place)
        match = router.choose(head.host or b"", method, place, lambda condition: condition.holds(request))
        if b"%2F" in path and not router.keeps_slashes(match):
            raise EncodedSlashError
        if match.value is not None:
            return match
    if not match.allowed:
        raise Failure(Kind.NO_ROUTE)
    allowed = b", ".join(match.allowed)  # RFC 9110 §15.5.6
    raise RequestRefused(Kind.METHOD_NOT_ALLOWED, f"allowed: {allowed.decode()}", [(b"Allow", allowed)])


def announced(
    router: Router, method: bytes, path: bytes, head: RequestHead, target: bytes, address: Callable[[], bytes]
) -> RouteMatch:
    """Return the match of the request that a CORS preflight announces.

    A preflight names the fields of the request without their values, and has none of its cookies: conditions on such a
    field are taken to hold, and cookies to be absent.
    """
    request = _request(head, target, address, path)
    lines = head.named(b"access-control-request-headers")
    names = {name.lower() for line in lines for name in list_members(line.value)}

    def holds(condition: Condition) -> bool:
        name = b"content-type" if condition.source == "content type" else condition.name
        if condition.source in ("header", "content type") and name in names:
            return not condition.negated
        return condition.holds(request)

    return router.choose(head.host or b"", method, path, holds)


def _request(head: RequestHead, target: bytes, address: Callable[[], bytes], path: bytes) -> RoutedRequest:
    query = target.partition(b"?")[2]
    return RoutedRequest(lambda name: [line.value for line in head.named(name)], query, address, path)

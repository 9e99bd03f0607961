"""Lookup of credentials in a store with asynchronous, time-limited replies (Redis)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import cast

from passerelle.errors import Failure, Kind
from passerelle.security.guard import GuardedCall
from passerelle.security.ratelimit.redis import ScriptCall

# How long a lookup is cached (seconds): the maximum delay until a revocation by another gateway takes effect.
BELIEVED = 1.0

# Exceptions that parsing a malformed reply may raise. Such a reply proves nothing about a credential.
UNREADABLE = (ValueError, TypeError, AttributeError, IndexError, RecursionError)


def look_up_pending(
    call: GuardedCall, digest: bytes, run: Callable[[], ScriptCall | None]
) -> ScriptCall | list[bytes | int] | None:
    """Return the result of ``run``, or the pending call, which is kept on the request; None if the store is
    unavailable.

    Once the call has ended, the guard is called again and gets the result from this function. One request may look up
    several credentials one after another, each once.
    """
    calls = cast("dict[bytes, ScriptCall] | None", call.pending)
    if calls is None:
        calls = call.pending = {}
    pending = calls.get(digest)
    if pending is None:
        pending = run()
        if pending is not None:
            calls[digest] = pending
        return pending
    return cast("list[bytes | int]", pending.result) if isinstance(pending.result, list) else None


def store_unavailable(what: str) -> Failure:
    """Build the failure for an unavailable store: the client is not admitted, but its credential is not reported as
    wrong."""
    return Failure(Kind.UNVERIFIABLE, f"the store of {what}: Redis does not reply")


def unreadable_reply(what: str) -> Failure:
    """Build the failure for a malformed reply of the store."""
    return Failure(Kind.UNVERIFIABLE, f"the store of {what}: Redis sent a malformed reply")


def parse_words(text: bytes | str) -> tuple[str, ...]:
    """Parse stored roles or scopes. Raises ValueError if they are malformed."""
    found = json.loads(text)
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ValueError("not a list of strings")
    return tuple(found)

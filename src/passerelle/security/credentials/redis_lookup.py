"""Credentials that are looked up in a store that answers later, and never waits long (Redis)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import cast

from passerelle.errors import Failure, Kind
from passerelle.security.guard import GuardedCall
from passerelle.security.ratelimit.redis import ScriptCall

# How long what was looked up is believed (seconds): what another gateway has ended is refused at most this much later.
BELIEVED = 1.0

# What an answer of another form may raise where it is read: whoever gave it, it says nothing of a credential.
UNREADABLE = (ValueError, TypeError, AttributeError, IndexError, RecursionError)


def look_up_pending(
    call: GuardedCall, digest: bytes, run: Callable[[], ScriptCall | None]
) -> ScriptCall | list[bytes | int] | None:
    """What ``run`` found: None where the store is gone. A call that is under way is kept on the request.

    Once it has ended, the request's guard is asked again, and so is this: then it has the answer. One request may look
    several credentials up, one after another, and each once.
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
    """Nobody is let in unseen, and nobody is told that their credential is wrong."""
    return Failure(Kind.UNVERIFIABLE, f"the store of {what}: Redis does not answer")


def unreadable_reply(what: str) -> Failure:
    """The same where there is an answer, and it says nothing."""
    return Failure(Kind.UNVERIFIABLE, f"the store of {what}: Redis gives what cannot be read")


def parse_words(text: bytes | str) -> tuple[str, ...]:
    """Roles or scopes as they are kept. ValueError where they are not."""
    found = json.loads(text)
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ValueError("no list of texts")
    return tuple(found)

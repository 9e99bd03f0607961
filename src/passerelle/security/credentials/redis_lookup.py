"""Credentials that are looked up in a store that answers later, and never waits long (Redis)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import cast

from passerelle.errors import Failure, Kind
from passerelle.security.guard import Asked
from passerelle.security.ratelimit.redis import Call

# How long what was looked up is believed (seconds): what another gateway has ended is refused at most this much later.
BELIEVED = 1.0

# What an answer of another form may raise where it is read: whoever gave it, it says nothing of a credential.
UNREADABLE = (ValueError, TypeError, AttributeError, IndexError, RecursionError)


def look_up(asked: Asked, digest: bytes, ask: Callable[[], Call | None]) -> Call | list[bytes | int] | None:
    """What ``ask`` found: None where the store is gone. A call that is under way is kept on the request.

    Once it has ended, the request's guard is asked again, and so is this: then it has the answer. One request may look
    several credentials up, one after another, and each once.
    """
    calls = cast("dict[bytes, Call] | None", asked.pending)
    if calls is None:
        calls = asked.pending = {}
    call = calls.get(digest)
    if call is None:
        call = ask()
        if call is not None:
            calls[digest] = call
        return call
    return cast("list[bytes | int]", call.result) if isinstance(call.result, list) else None


def gone(what: str) -> Failure:
    """Nobody is let in unseen, and nobody is told that their credential is wrong."""
    return Failure(Kind.UNVERIFIABLE, f"the store of {what}: Redis does not answer")


def unreadable(what: str) -> Failure:
    """The same where there is an answer, and it says nothing."""
    return Failure(Kind.UNVERIFIABLE, f"the store of {what}: Redis gives what cannot be read")


def words(text: bytes | str) -> tuple[str, ...]:
    """Roles or scopes as they are kept. ValueError where they are not."""
    found = json.loads(text)
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ValueError("no list of texts")
    return tuple(found)

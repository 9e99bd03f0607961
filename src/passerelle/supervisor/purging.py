"""Purging the cache on request: what exactly was asked for, and how it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from passerelle.routing.paths import PatternError, purged_path
from passerelle.supervisor.errors import ChangeRefused, InvalidChange


def parse_purge(arguments: Mapping[str, str]) -> tuple[str, str]:
    """``("tag", T)``, ``("path", P)`` with P in canonical form, or ``("all", ...)``.

    :raises Refused: when it is not exactly one of them, or P is no path.
    """
    asked = [(what, value) for what, value in arguments.items() if what in ("tag", "path", "all") and value]
    if len(asked) != 1 or len(arguments) != 1:
        raise ChangeRefused("exactly one of tag, path and all says what to purge")
    what, value = asked[0]
    if what != "path":
        return what, value
    try:
        return what, purged_path(value)
    except PatternError as error:
        raise InvalidChange(str(error)) from None


def purge_result(purged: int, silent: Sequence[str] = ()) -> dict[str, Any]:
    """The answer. :raises Refused: when workers did not hear of it."""
    if silent:
        raise ChangeRefused(f"no answer from {', '.join(silent)}, which may still have it; purge again")
    return {"message": f"purged {purged} stored answer{'s' * (purged != 1)}", "purged": purged}

"""Keyset paging: a page starts after an id, so page 1,000 is as fast as page 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from shopkit.problems import Problem

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
LARGEST_ID = 2**63 - 1  # the largest integer of the databases


class Page(NamedTuple):
    """At most ``limit`` rows whose id is greater than ``after``."""

    limit: int
    after: int


def number(text: str) -> int | None:
    """Parse an id: decimal digits without sign or leading zero, at most 2**63 - 1; return None for other text.

    A resource has a single URL: ``/user/01`` is not ``/user/1``.
    """
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or text[0] == "0":
        return None
    value = int(text)
    return value if value <= LARGEST_ID else None


def page(query: Mapping[str, str]) -> Page:
    """Read ``limit`` (1 to 100, default 20) and ``after`` (an id) from the query.

    Raises Problem 422 with every invalid parameter.
    """
    errors = []
    limit = number(query.get("limit", str(DEFAULT_LIMIT)))
    if limit is None or limit > MAX_LIMIT:
        errors.append(("limit", f"must be a whole number from 1 to {MAX_LIMIT}"))
    after = number(query["after"]) if "after" in query else 0
    if after is None:
        errors.append(("after", "must be an id"))
    if limit is None or after is None or errors:
        raise Problem(422, "The query is not valid.", errors)
    return Page(limit, after)

"""The part of the configuration that says who may ask, how often, and for what."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue

from passerelle.config.models.addresses import Network
from passerelle.config.models.base import Model
from passerelle.config.models.units import RateText
from passerelle.config.models.values import SHARED, Store, Text, Whole, is_token

_HEADER = re.compile(r"header:[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch


def one_or_more(found: object) -> object:
    """One value stands for a list of it."""
    return found if isinstance(found, list | tuple) else (found,)


def _field_name(text: str) -> str:
    if is_token(text) and text.lower() not in _TAKEN:
        return text
    raise ValueError(f"found {text!r}; allowed is the name of a field of its own, such as X-API-Key")


# Fields with a meaning of their own, which no key may stand in.
_TAKEN = frozenset({"authorization", "connection", "content-length", "cookie", "expect", "host", "transfer-encoding"})

_CONSUMER = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,254}[\x21-\x7e])?").fullmatch
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,128}").fullmatch


def check_consumer(text: str) -> str:
    """The name of a consumer: visible ASCII, blanks inside."""
    if _CONSUMER(text):
        return text
    raise ValueError(f"found {text!r}; allowed are 1 to 256 visible ASCII characters, with blanks inside only")


def check_scope(text: str) -> str:
    """A scope (RFC 6749 §3.3: ``scope-token``)."""
    if _SCOPE(text):
        return text
    raise ValueError(f"found {text!r}; a scope is 1 to 128 visible ASCII characters without quotes and backslashes")


Consumer = Annotated[Text, AfterValidator(check_consumer)]
Scope = Annotated[Text, AfterValidator(check_scope)]
OneOrMore = BeforeValidator(one_or_more)


class Keys(Model):
    """API keys, for routes that accept them."""

    store: Store = Field(
        default=SHARED,
        description="Where they are kept: `redis`, or the path of an SQLite file, made if it is not there.",
    )
    header: Annotated[Text, AfterValidator(_field_name)] = Field(
        default="X-API-Key", description="The field that a client sends its key in; it never goes upstream."
    )


class Clients(Model):
    """Which addresses may ask at all."""

    allow: tuple[Network, ...] = Field(default=(), min_length=1, description="Only clients in these ranges.")
    deny: tuple[Network, ...] = Field(
        default=(), min_length=1, description="No clients in these ranges, whatever `allow` says."
    )


class Require(Model):
    """What an authenticated client must have: all that is named here."""

    scopes: tuple[Scope, ...] = Field(default=(), min_length=1, description="All of these scopes.")
    consumers: tuple[Consumer, ...] | None = Field(
        default=None, min_length=1, description="To be one of these consumers."
    )
    roles: Annotated[tuple[Text, ...], OneOrMore] | None = Field(
        default=None, min_length=1, description="One of these roles, of a session, or in the claim `roles` of a token."
    )
    claims: dict[Text, Annotated[tuple[JsonValue, ...], OneOrMore]] = Field(
        default={}, min_length=1, description="Of each of these claims of the token, one of the values."
    )


def _by(text: str) -> str:
    if text in ("address", "consumer", "key") or _HEADER(text):
        return text
    raise ValueError(f"found {text!r}; allowed: address, consumer, key, header:NAME")


class RateLimit(Model):
    """How often one client may ask."""

    rate: RateText = Field(description="Requests per second, minute, hour or day: `100/s`, `3/m`, `10000/d`.")
    burst: Annotated[int, Whole(1, 1_000_000_000)] | None = Field(
        default=None, description="Most requests at once; by default the number in `rate`."
    )
    by: Annotated[Text, AfterValidator(_by)] = Field(
        default="address",
        description="Who is counted: `address` (IPv6 by /64), `consumer`, `key` or `header:NAME`.",
    )
    cost: Annotated[int, Whole(1, 1_000_000)] = Field(default=1, description="What a request of the route counts for.")
    dry_run: bool = Field(default=False, description="`true`: only count what would be refused.")

    @property
    def size(self) -> int:
        """The burst that holds."""
        return self.rate.number if self.burst is None else self.burst

    @property
    def label(self) -> str:
        """What the limit is called in the fields of answers."""
        return f"{self.rate} by {self.by.removeprefix('header:')}"

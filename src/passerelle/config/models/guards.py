"""Guards of a route: client addresses, requirements, rate limits; and the store of API keys."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, model_validator

from passerelle.config.models.addresses import Network
from passerelle.config.models.base import Model, Shape, Takes, given, raise_first
from passerelle.config.models.units import RateText
from passerelle.config.models.values import SHARED, Store, Text, WholeNumber, is_token
from passerelle.http.secret_names import is_secret_name

_HEADER = re.compile(r"header:[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch


def one_or_more(found: object) -> object:
    """Convert a single value to a list of one item."""
    return found if isinstance(found, list | tuple) else (found,)


def _field_name(text: str) -> str:
    if is_token(text) and text.lower() not in _TAKEN:
        return text
    raise ValueError(f"found {text!r}; allowed is a header without another meaning, such as X-API-Key")


def _parameter(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
        raise ValueError(f"found {text!r}; allowed are 1 to 64 letters, digits, - and _, such as api_key")
    if not is_secret_name(text.encode("ascii")):
        raise ValueError(f"found {text!r}; allowed is a name whose values logs redact, such as api_key or token")
    return text


def _fixed_key(text: str) -> str:
    if not re.fullmatch(r"[!-~]{20,512}", text):
        raise ValueError("found a key (it is not shown) of another form than 20 to 512 visible ASCII characters")
    return text


def _digest(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise ValueError("found another form than 64 hexadecimal digits")
    return text.lower()


# Fields with another meaning, which cannot carry an API key.
_TAKEN = frozenset({"authorization", "connection", "content-length", "cookie", "expect", "host", "transfer-encoding"})

_CONSUMER = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,254}[\x21-\x7e])?").fullmatch
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,128}").fullmatch


def check_consumer(text: str) -> str:
    """Check the name of a consumer: visible ASCII, with blanks inside only."""
    if _CONSUMER(text):
        return text
    raise ValueError(f"found {text!r}; allowed are 1 to 256 visible ASCII characters, with blanks inside only")


def check_scope(text: str) -> str:
    """Check a scope (RFC 6749 §3.3: ``scope-token``)."""
    if _SCOPE(text):
        return text
    raise ValueError(f"found {text!r}; a scope is 1 to 128 visible ASCII characters without quotes and backslashes")


Consumer = Annotated[Text, AfterValidator(check_consumer), Takes("consumer", "consumers")]
Scope = Annotated[Text, AfterValidator(check_scope), Takes("scope", "scopes")]
OneOrMore = BeforeValidator(one_or_more)


class FixedKey(Model):
    """An API key of the file, or its SHA-256."""

    owner: Consumer = Field(description="The consumer that the key identifies.")
    key: Annotated[Text, AfterValidator(_fixed_key), Takes("text")] | None = Field(
        default=None,
        repr=False,
        description="The key, at least 20 characters; preferably as `${VARIABLE}` or `${file:…}`.",
    )
    sha256: Annotated[Text, AfterValidator(_digest), Takes("64 hexadecimal digits")] | None = Field(
        default=None, description="The SHA-256 of the key, as `passerelle keys digest` prints it."
    )
    scopes: tuple[Scope, ...] = Field(default=(), min_length=1, description="The permissions of the key.")

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the key."""
        return bytes.fromhex(self.sha256) if self.sha256 is not None else sha256((self.key or "").encode()).digest()

    @model_validator(mode="after")
    def _shape(self) -> FixedKey:
        raise_first(fixed_key_shape(given(self)))
        return self


def fixed_key_shape(keys: set[str]) -> Shape:
    """Check which keys an entry of ``keys.fixed`` combines."""
    if {"key", "sha256"} <= keys:
        return [("sha256", "found together with key; allowed is one of key, sha256")]
    return [] if keys & {"key", "sha256"} else [(None, "found neither key nor sha256; one of them is needed")]


class Keys(Model):
    """API keys, for routes with `auth: [key]`."""

    store: Store = Field(
        default=SHARED,
        description="Where keys are stored: `redis`, or the path of an SQLite file, created if missing.",
    )
    header: Annotated[Text, AfterValidator(_field_name), Takes("name of a field")] = Field(
        default="X-API-Key", description="The header in which clients send their key; it is not forwarded."
    )
    query: Annotated[Text, AfterValidator(_parameter), Takes("name of a parameter")] | None = Field(
        default=None,
        description="The query parameter in which clients may send their key; it is removed from all requests.",
    )
    fixed: Annotated[tuple[FixedKey, ...], Takes("list of [keys](#keys-of-the-file)")] = Field(
        default=(), min_length=1, description="Keys that stand in the file. With them, `store` is optional."
    )

    @property
    def has_store(self) -> bool:
        """Whether there are keys besides those of the file."""
        return not self.fixed or "store" in self.model_fields_set


class Clients(Model):
    """Which client addresses may use a route."""

    allow: tuple[Network, ...] = Field(
        default=(), min_length=1, description="Only clients in these ranges are allowed."
    )
    deny: tuple[Network, ...] = Field(
        default=(), min_length=1, description="Clients in these ranges are refused, even if `allow` lists them."
    )


class Require(Model):
    """What an authenticated client must have. All requirements apply."""

    scopes: tuple[Scope, ...] = Field(default=(), min_length=1, description="The client must have all of these scopes.")
    consumers: tuple[Consumer, ...] | None = Field(
        default=None, min_length=1, description="The client must be one of these consumers."
    )
    roles: Annotated[tuple[Text, ...], OneOrMore] | None = Field(
        default=None,
        min_length=1,
        description="The client must have one of these roles, of a session or of the claim `roles` of a token.",
    )
    claims: Annotated[dict[Text, Annotated[tuple[JsonValue, ...], OneOrMore]], Takes("mapping of claims to values")] = (
        Field(default={}, min_length=1, description="Each of these claims of the token must have one of its values.")
    )


def _by(text: str) -> str:
    if text in ("address", "consumer", "key") or _HEADER(text):
        return text
    raise ValueError(f"found {text!r}; allowed: address, consumer, key, header:NAME")


class RateLimit(Model):
    """How often one client may use a route."""

    rate: RateText = Field(description="Requests per second, minute, hour or day: `100/s`, `3/m`, `10000/d`.")
    burst: Annotated[int, WholeNumber(1, 1_000_000_000)] | None = Field(
        default=None, description="Maximum number of requests at once; by default the number in `rate`."
    )
    by: Annotated[Text, AfterValidator(_by)] = Field(
        default="address",
        description="What is counted: `address` (IPv6 by /64), `consumer`, `key` or `header:NAME`.",
    )
    cost: Annotated[int, WholeNumber(1, 1_000_000)] = Field(
        default=1, description="How many requests one request of the route counts as."
    )
    dry_run: bool = Field(default=False, description="`true`: count what would be refused, and refuse nothing.")

    @property
    def size(self) -> int:
        """The effective burst."""
        return self.rate.number if self.burst is None else self.burst

    @property
    def label(self) -> str:
        """The name of the limit in response fields."""
        return f"{self.rate} by {self.by.removeprefix('header:')}"

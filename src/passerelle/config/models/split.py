"""The split of the users of a route among services: the weights, what a user is, and the override for testers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic.json_schema import WithJsonSchema

from passerelle.config.models.addresses import Network
from passerelle.config.models.base import Model, Takes
from passerelle.config.models.guards import OneOrMore
from passerelle.config.models.headers import ProbeField
from passerelle.config.models.values import Flag, Name, Text, WholeNumber, is_token
from passerelle.config.reading.wording import describe, hint
from passerelle.crossing.sides import WHOLE

MOST_SIDES: Final = 8
"""Services among which the users of a route are split, with its own."""

Source = Literal["consumer", "session", "cookie", "header", "address"]
_SOURCES: Final[tuple[Source, ...]] = get_args(Source)


@dataclass(frozen=True, slots=True)
class SplitBy:
    """What identifies a user. ``name`` is that of the cookie or header, and empty otherwise."""

    source: Source
    name: str = ""

    def __str__(self) -> str:
        return f"{self.source}:{self.name}" if self.name else self.source


def parse_split_by(found: object) -> SplitBy:
    """Parse ``consumer``, ``session``, ``cookie:NAME``, ``header:NAME`` or ``address``."""
    if isinstance(found, SplitBy):
        return found
    allowed = "allowed is consumer, session, cookie:NAME, header:NAME or address"
    if not isinstance(found, str):
        raise ValueError(f"found {describe(found)}; {allowed}")
    word, colon, name = found.partition(":")
    for source in _SOURCES:
        if word == source and (is_token(name) if source in ("cookie", "header") else not colon):
            return SplitBy(source, name.lower() if source == "header" else name)
    raise ValueError(f"found {describe(found)}; {allowed}{hint(word, _SOURCES) if word not in _SOURCES else ''}")


def _cookie_name(text: str) -> str:
    if not is_token(text):
        raise ValueError(f"found {text!r}; the name of a cookie is a token, such as side")
    return text


def _salt(text: str) -> str:
    if not 1 <= len(text.encode()) <= 64:
        raise ValueError(f"found {len(text.encode())} bytes; a salt has 1 to 64")
    return text


SplitUsers = Annotated[
    SplitBy,
    BeforeValidator(parse_split_by),
    WithJsonSchema({"type": "string", "pattern": "^(consumer|session|address|(cookie|header):.+)$"}),
    Takes("`consumer`, `session`, `cookie:NAME`, `header:NAME` or `address`"),
]


class Override(Model):
    """How testers choose a side: by a header or a cookie whose value is the name of its service."""

    header: ProbeField | None = Field(default=None, description="Header of a request with the name of a side.")
    cookie: Annotated[Text, AfterValidator(_cookie_name), Takes("name of a cookie")] | None = Field(
        default=None, description="Cookie of a request with the name of a side."
    )
    roles: Annotated[tuple[Text, ...], OneOrMore] = Field(
        default=(), min_length=1, description="Clients with one of these roles may choose. With `auth` only."
    )
    clients: Annotated[tuple[Network, ...], OneOrMore] = Field(
        default=(), min_length=1, description="Clients with an address in one of these ranges may choose."
    )

    @model_validator(mode="after")
    def _is_complete(self) -> Override:
        if self.header is None and self.cookie is None:
            raise ValueError("found neither header nor cookie; at least one is needed")
        if not self.roles and not self.clients:
            raise ValueError("found neither roles nor clients; without them, any client could choose its side")
        return self


class Split(Model):
    """Splits the users of a route between its service and others. A user stays on one side as long as the weights
    stay the same."""

    weights: Annotated[
        dict[Name, Annotated[int, WholeNumber(0, WHOLE)]], Takes("mapping of services to a number, 0 to 1000")
    ] = Field(
        min_length=1,
        max_length=MOST_SIDES - 1,
        description="The share of each further service in per mille of the users. The `service` of the route has the "
        "rest.",
    )
    by: SplitUsers = Field(
        default=SplitBy("address"),
        description="What identifies a user, by default the address (IPv6: /64). Requests without it count by address.",
    )
    salt: Annotated[Text, AfterValidator(_salt)] | None = Field(
        default=None,
        description="Which users are the first to move; by default derived from the route. Splits with the same salt "
        "move the same users.",
    )
    override: Annotated[Override, Takes("[mapping](#override)")] | None = Field(
        default=None, description="How testers choose a side; by default not at all."
    )
    shared_cache: Flag = Field(
        default=False, description="`true`: a stored response of one service is served to the users of all."
    )

    @model_validator(mode="after")
    def _leaves_a_rest(self) -> Split:
        if (total := sum(self.weights.values())) > WHOLE:
            raise ValueError(f"found weights with the sum {total}; allowed are {WHOLE} together, in per mille")
        return self

    def sides(self, service: str) -> dict[str, int]:
        """Return the weights of all sides, with that of ``service``, the one of the route, first."""
        return {service: WHOLE - sum(self.weights.values()), **self.weights}

"""Conditions of a route beyond host, path and method: fields, query, cookies, client addresses, media type, path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, PlainValidator, model_validator
from pydantic.json_schema import WithJsonSchema

from passerelle.config.models.addresses import parse_network
from passerelle.config.models.base import Model, Takes
from passerelle.config.models.headers import check_media_type
from passerelle.config.models.values import Text, is_token
from passerelle.config.reading.wording import describe, hint
from passerelle.routing.conditions import BeginsWith, Condition, InNetworks, Is, Matches, MediaTypes, Present, Source
from passerelle.routing.linear_pattern import LinearPatternError, linear_pattern

MOST_CONDITIONS: Final = 16
"""Conditions of one kind that a route may have."""
MOST_VALUES: Final = 64
"""Values that one condition may list."""

_KEYS: Final = ("is", "prefix", "pattern", "present", "not")
# Fields with a key of their own, which interprets them.
_OTHER_KEYS: Final = {
    "host": "use host of the route",
    "cookie": "use cookies",
    "content-type": "use content_type",
    "x-forwarded-for": "use clients",
}


@dataclass(frozen=True, slots=True)
class ValueCondition:
    """What one value of a request must fulfil."""

    test: Is | BeginsWith | Matches | Present | InNetworks | MediaTypes
    negated: bool = False


def parse_value(found: object) -> ValueCondition:
    """Parse a text, a list of texts, or a mapping with one of ``is``, ``prefix``, ``pattern``, ``present``, ``not``."""
    if isinstance(found, ValueCondition):
        return found
    if not isinstance(found, dict):
        return ValueCondition(Is(frozenset(_texts(found))))
    key, value = _only(found, _KEYS)
    if key == "not":
        inner = parse_value(value)
        if inner.negated or isinstance(inner.test, Present):
            raise ValueError("found not together with present or another not; write {present: false} for absence")
        return ValueCondition(inner.test, negated=True)
    if key == "present":
        if not isinstance(value, bool):
            raise ValueError(f"found present: {describe(value)}; allowed: true, false")
        return ValueCondition(Present(), negated=not value)
    if key == "pattern":
        if not isinstance(value, str):
            raise ValueError(f"found pattern: {describe(value)}; allowed is a pattern such as 'v[0-9]+'")
        try:
            return ValueCondition(Matches(linear_pattern(value)))
        except LinearPatternError as error:
            raise ValueError(f"the pattern {value!r} cannot be used: {error}") from None
    texts = _texts(value)
    if key == "prefix":
        if b"" in texts:
            raise ValueError("found an empty prefix; write {present: true} for any value")
        return ValueCondition(BeginsWith(tuple(dict.fromkeys(texts))))
    return ValueCondition(Is(frozenset(texts)))


def _only(found: dict[Any, Any], allowed: tuple[str, ...]) -> tuple[str, object]:
    """Return the only key of a mapping, and its value."""
    for key in found:
        if key not in allowed:
            guess = hint(key, allowed) if isinstance(key, str) else ""
            raise ValueError(f"found the key {key!r}; allowed: {', '.join(allowed)}{guess}")
    if len(found) != 1:
        keys = " and ".join(map(str, found)) or "no key"
        raise ValueError(f"found {keys}; a condition has one of {', '.join(allowed)}")
    return next(iter(found.items()))


def _texts(found: object) -> list[bytes]:
    values: list[Any] = list(found) if isinstance(found, list | tuple) else [found]
    if not 1 <= len(values) <= MOST_VALUES:
        raise ValueError(f"found {len(values)} values; a condition lists 1 to {MOST_VALUES}")
    for value in values:
        if not isinstance(value, str):
            quoted = str(value).lower() if isinstance(value, bool) else str(value)
            more = f"; put it in quotes: '{quoted}'" if isinstance(value, bool | int | float) else ""
            raise ValueError(f"found {describe(value)}; allowed is text, a list, or one of {', '.join(_KEYS)}{more}")
        if not value.isprintable() or len(value) > 1024 or value != value.strip():
            raise ValueError("a value has at most 1024 visible characters, with blanks inside only")
    return [value.encode() for value in values]


def _negatable(found: object) -> tuple[object, bool]:
    """Return what a condition lists, and whether that is negated: ``{not: …}``."""
    if not isinstance(found, dict):
        return found, False
    return _only(found, ("not",))[1], True


def parse_clients(found: object) -> ValueCondition:
    """Parse a list of networks, or ``{not: …}`` with one."""
    if isinstance(found, ValueCondition):
        return found
    listed, negated = _negatable(found)
    values = listed if isinstance(listed, list | tuple) else [listed]
    if not values:
        raise ValueError("found an empty list; allowed are addresses and networks such as 10.0.0.0/8")
    return ValueCondition(InNetworks(frozenset(map(parse_network, values))), negated)


def parse_media_types(found: object) -> ValueCondition:
    """Parse a list of media types, or ``{not: …}`` with one."""
    if isinstance(found, ValueCondition):
        return found
    listed, negated = _negatable(found)
    types = frozenset(check_media_type(value.decode()).encode() for value in _texts(listed))
    return ValueCondition(MediaTypes(types), negated)


def _matched_field(text: str) -> str:
    if not is_token(text):
        raise ValueError(f"found {text!r}; allowed is the name of a request field, such as X-Version")
    if text.lower() in _OTHER_KEYS:
        raise ValueError(f"found {text!r}; {_OTHER_KEYS[text.lower()]}")
    return text


def _cookie(text: str) -> str:
    if not is_token(text):
        raise ValueError(f"found {text!r}; the name of a cookie is a token, such as beta")
    return text


def _parameter(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError(f"found {text!r}; the name of a parameter is text, as it is before it is encoded")
    return text


def parse_path(found: object) -> ValueCondition:
    """Parse a condition on the whole path, which every request has."""
    value = parse_value(found)
    if isinstance(value.test, Present):
        raise ValueError("found present, but every request has a path; allowed are is, prefix, pattern, not")
    return value


_LIST_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
_NEGATABLE = {
    "anyOf": [*_LIST_SCHEMA["anyOf"], {"type": "object", "properties": {"not": _LIST_SCHEMA}, "required": ["not"]}]
}
_VALUE_SCHEMA = {
    "anyOf": [
        *_LIST_SCHEMA["anyOf"],
        {
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": False,
            "properties": {
                "is": _LIST_SCHEMA,
                "prefix": _LIST_SCHEMA,
                "pattern": {"type": "string"},
                "present": {"type": "boolean"},
                "not": {},
            },
        },
    ]
}
Value = Annotated[ValueCondition, PlainValidator(parse_value), WithJsonSchema(_VALUE_SCHEMA)]
_CONDITIONS = Takes("mapping of names to [conditions](#conditions)")
ClientCondition = Annotated[
    ValueCondition,
    PlainValidator(parse_clients),
    WithJsonSchema(_NEGATABLE),
    Takes("address range, list, or `{not: …}`"),
]
PathCondition = Annotated[
    ValueCondition,
    PlainValidator(parse_path),
    WithJsonSchema(_VALUE_SCHEMA),
    Takes("a [condition](#conditions)"),
]
TypeCondition = Annotated[
    ValueCondition,
    PlainValidator(parse_media_types),
    WithJsonSchema(_NEGATABLE),
    Takes("media type, list, or `{not: …}`"),
]


class Match(Model):
    """What a request must have beside its host, path and method. All conditions must hold."""

    headers: Annotated[dict[Annotated[Text, AfterValidator(_matched_field)], Value], _CONDITIONS] = Field(
        default={},
        min_length=1,
        max_length=MOST_CONDITIONS,
        description="Conditions on header fields. Several lines of a field are one value, joined with `, `.",
    )
    query: Annotated[dict[Annotated[Text, AfterValidator(_parameter)], Value], _CONDITIONS] = Field(
        default={},
        min_length=1,
        max_length=MOST_CONDITIONS,
        description="Conditions on parameters of the query, decoded; of several with the same name, the first counts.",
    )
    cookies: Annotated[dict[Annotated[Text, AfterValidator(_cookie)], Value], _CONDITIONS] = Field(
        default={},
        min_length=1,
        max_length=MOST_CONDITIONS,
        description="Conditions on cookies; of several with the same name, the first counts.",
    )
    clients: ClientCondition | None = Field(
        default=None, description="Client addresses, behind `trusted_proxies` the original ones."
    )
    content_type: TypeCondition | None = Field(
        default=None, description="Media types of request bodies, such as `application/json` or `text/*`."
    )

    path: PathCondition | None = Field(
        default=None, description="The whole path in its canonical form, such as `{pattern: '.*[.]php'}`."
    )

    @model_validator(mode="after")
    def _is_complete(self) -> Match:
        if not self.conditions:
            keys = ", ".join(Match.model_fields)
            raise ValueError(f"found no condition; at least one of {keys} is needed")
        names = [name.lower() for name in self.headers]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"found the field {name!r} twice; list it once")
        return self

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The conditions for the router."""
        found = [_condition("header", name.lower(), value) for name, value in self.headers.items()]
        found += [_condition("query", name, value) for name, value in self.query.items()]
        found += [_condition("cookie", name, value) for name, value in self.cookies.items()]
        found += [_condition("client", "", self.clients)] if self.clients is not None else []
        found += [_condition("content type", "", self.content_type)] if self.content_type is not None else []
        found += [_condition("path", "", self.path)] if self.path is not None else []
        return tuple(found)


def _condition(source: Source, name: str, value: ValueCondition) -> Condition:
    return Condition(source, name.encode(), value.test, value.negated)

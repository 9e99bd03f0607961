"""Header fields: CORS, rules for requests and responses, security headers."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic.json_schema import WithJsonSchema

from passerelle.config.models.base import Model, Takes
from passerelle.config.models.guards import OneOrMore
from passerelle.config.models.units import Duration
from passerelle.config.models.values import Flag, Method, Text, is_token
from passerelle.config.reading.wording import describe
from passerelle.http.field_rules import FRAMING, forbidden_request, forbidden_response

_HOST = r"(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_ORIGIN = re.compile(rf"([a-z][a-z0-9+.-]*)://(\*\.)?({_HOST}|\[[0-9a-f:.]+\])(?::([0-9]{{1,5}}))?").fullmatch
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def _origin(text: str) -> str:
    """Check an origin as browsers send it (RFC 6454 §6.2), a pattern for subdomains, or ``*``."""
    if text == "*":
        return text
    if text == "null":
        raise ValueError("found 'null', the origin of every sandboxed page and local file; name the origins")
    lower = text.lower()
    match = _ORIGIN(lower)
    if match is None:
        raise ValueError(
            f"found {text!r}; allowed is *, an origin without a path such as https://shop.example, "
            "or its subdomains: https://*.shop.example"
        )
    scheme, star, host, port = match.groups()
    if star and ("." not in host or host.rpartition(".")[2].isdigit()):
        raise ValueError(f"found {text!r}; after *. comes a domain of at least two labels, such as shop.example")
    if port is not None and port == _DEFAULT_PORTS.get(scheme):
        raise ValueError(
            f"found {text!r}; browsers omit the default port of {scheme}; write {lower.rpartition(':')[0]!r}"
        )
    return lower


def _field(text: str) -> str:
    if not is_token(text):
        raise ValueError(f"found {text!r}; allowed is the name of a field, such as X-Version")
    return text


def _star_or_name(text: str) -> str:
    if text == "*" or is_token(text):
        return text
    raise ValueError(f"found {text!r}; allowed is the name of a request field, such as Authorization, or *")


Origin = Annotated[
    Text, AfterValidator(_origin), Field(json_schema_extra={"examples": ["https://shop.example"]}), Takes("origin")
]


class Cors(Model):
    """Which pages of other origins may use the route from a browser (Fetch standard)."""

    origins: Annotated[tuple[Origin, ...], OneOrMore] = Field(
        min_length=1, description="Allowed origins: origins, `https://*.example.com` for subdomains, or `*` for all."
    )
    methods: tuple[Method, ...] | None = Field(
        default=None, min_length=1, description="Allowed methods; by default all that the route accepts."
    )
    headers: Annotated[
        tuple[Annotated[Text, AfterValidator(_star_or_name)], ...], OneOrMore, Takes("name of a field, `*`, or a list")
    ] = Field(
        default=(),
        min_length=1,
        description="Request fields that pages may set, or `*`; `Accept` and `Content-Type` are always allowed.",
    )
    expose: Annotated[tuple[Annotated[Text, AfterValidator(_field), Takes("name of a field")], ...], OneOrMore] = Field(
        default=(),
        min_length=1,
        description="Response fields that pages may read, in addition to those that are always readable.",
    )
    credentials: Flag = Field(
        default=False,
        description="`true`: browsers send cookies and other credentials, and pages may read the response. "
        "Not with `*`.",
    )
    max_age: Duration = Field(default=600.0, description="How long a browser may cache the result of a preflight.")


def _request_name(text: str) -> str:
    reason = forbidden_request(_field(text))
    if reason is not None:
        raise ValueError(f"found {text!r}; {reason}")
    return text


def _response_name(text: str) -> str:
    reason = forbidden_response(_field(text))
    if reason is not None:
        raise ValueError(f"found {text!r}; {reason}")
    return text


def _value(text: str) -> str:
    """Check a field value: visible ASCII with blanks inside, so that it cannot end the line (RFC 9110 §5.5)."""
    if not re.fullmatch(r"(?:[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?)?", text):
        # The value is not shown: it may be a credential for the service.
        raise ValueError("a field value is visible ASCII, with blanks inside only")
    if len(text) > 4096:
        raise ValueError(f"found {len(text)} characters; a field value has at most 4096")
    return text


def _probe_name(text: str) -> str:
    if _field(text).lower() in FRAMING:
        use = "use host of health" if text.lower() == "host" else "it frames the message, or applies to one connection"
        raise ValueError(f"found {text!r}; {use}")
    return text


Value = Annotated[Text, AfterValidator(_value)]
ProbeField = Annotated[Text, AfterValidator(_probe_name), Takes("name of a field")]
RequestName = Annotated[Text, AfterValidator(_request_name), Takes("name of a field")]
ResponseName = Annotated[Text, AfterValidator(_response_name), Takes("name of a field")]
_Values = Takes("mapping of fields to values")
MOST_CONDITIONAL: Final = 32
"""Conditional rules of one kind that a route may have."""

_MEDIA_TYPE = re.compile(r"[!#$%&'+.^_`|~0-9a-z-]+/(?:\*|[!#$%&'+.^_`|~0-9a-z-]+)").fullmatch


def check_media_type(text: str) -> str:
    """Check a media type or a range of them, such as ``text/*``; return it in lower case."""
    if not _MEDIA_TYPE(text.lower()):
        raise ValueError(f"found {text!r}; allowed is a media type such as application/json, or text/*")
    return text.lower()


def _matched_status(found: object) -> str:
    text = str(found) if isinstance(found, int) and not isinstance(found, bool) else found
    if isinstance(text, str) and re.fullmatch(r"[2-5](?:[0-9]{2}|xx)", text):
        return text
    raise ValueError(
        f"found {describe(found)}; allowed is a status from 200 to 599 such as 404, or a class such as 5xx"
    )


MatchedField = Annotated[Text, AfterValidator(_field), Takes("name of a field", "names of fields")]
MediaType = Annotated[Text, AfterValidator(check_media_type), Takes("media type", "media types")]
MatchedStatus = Annotated[
    Text,
    BeforeValidator(_matched_status),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^[2-5]([0-9]{2}|xx)$"}]}),
    Takes("status", "statuses"),
]


class RequestChanges(Model):
    """Changes to the header fields that services receive."""

    set: Annotated[dict[RequestName, Value], _Values] = Field(
        default={},
        min_length=1,
        description="Fields that replace all fields of the same name; `{name}` is a parameter of the path.",
    )
    add: Annotated[dict[RequestName, Value], _Values] = Field(
        default={},
        min_length=1,
        description="Fields to add to those of the same name; `{name}` is a parameter of the path.",
    )
    default: Annotated[dict[RequestName, Value], _Values] = Field(
        default={},
        min_length=1,
        description="Fields to add if there is none of the same name; `{name}` is a parameter of the path.",
    )
    remove: Annotated[tuple[RequestName, ...], OneOrMore] = Field(
        default=(), min_length=1, description="Fields of the client that services do not receive."
    )


class RequestWhen(RequestChanges):
    """Changes to requests that meet all conditions, judged before any rule changes a field."""

    present: Annotated[tuple[MatchedField, ...], OneOrMore] = Field(
        default=(), min_length=1, description="Fields that the request must have."
    )
    absent: Annotated[tuple[MatchedField, ...], OneOrMore] = Field(
        default=(), min_length=1, description="Fields that the request must not have."
    )
    content_type: Annotated[tuple[MediaType, ...], OneOrMore] = Field(
        default=(), min_length=1, description="Media types, of which the body must have one; `text/*` for all texts."
    )


class RequestHeaders(RequestChanges):
    """Rules for the header fields that services receive."""

    when: Annotated[tuple[RequestWhen, ...], OneOrMore, Takes("[rule](#when), or a list")] = Field(
        default=(),
        min_length=1,
        max_length=MOST_CONDITIONAL,
        description="Further rules, for requests that meet conditions. They are applied after the others, in order.",
    )


class ResponseChanges(Model):
    """Changes to the header fields that clients receive."""

    set: Annotated[dict[ResponseName, Value], _Values] = Field(
        default={}, min_length=1, description="Fields that replace all fields of the same name."
    )
    add: Annotated[dict[ResponseName, Value], _Values] = Field(
        default={}, min_length=1, description="Fields to add to those of the same name."
    )
    default: Annotated[dict[ResponseName, Value], _Values] = Field(
        default={}, min_length=1, description="Fields to add if there is none of the same name."
    )
    remove: Annotated[tuple[ResponseName, ...], OneOrMore] = Field(
        default=(), min_length=1, description="Fields of the service that clients do not receive."
    )


class ResponseWhen(ResponseChanges):
    """Changes to responses that meet all conditions, judged before any rule changes a field."""

    status: Annotated[tuple[MatchedStatus, ...], OneOrMore] = Field(
        default=(), min_length=1, description="Statuses such as `404` or `5xx`, of which the response must have one."
    )
    present: Annotated[tuple[MatchedField, ...], OneOrMore] = Field(
        default=(), min_length=1, description="Fields that the response must have."
    )
    absent: Annotated[tuple[MatchedField, ...], OneOrMore] = Field(
        default=(), min_length=1, description="Fields that the response must not have."
    )
    content_type: Annotated[tuple[MediaType, ...], OneOrMore] = Field(
        default=(), min_length=1, description="Media types, of which the body must have one; `text/*` for all texts."
    )


class ResponseHeaders(ResponseChanges):
    """Rules for the header fields that clients receive."""

    when: Annotated[tuple[ResponseWhen, ...], OneOrMore, Takes("[rule](#when), or a list")] = Field(
        default=(),
        min_length=1,
        max_length=MOST_CONDITIONAL,
        description="Further rules, for responses that meet conditions. They are applied after the others, in order.",
    )


def _off(found: object) -> object:
    """Convert false to ``off``."""
    return "off" if found is False else found


def _hsts(text: str) -> str:
    if text == "off" or re.fullmatch(r"max-age=[0-9]{1,10}(; includeSubDomains)?(; preload)?", text):
        return text
    raise ValueError(
        f"found {text!r}; allowed is off, or max-age=31536000 optionally followed by '; includeSubDomains' "
        "and '; preload'"
    )


_OFF = BeforeValidator(_off)


class SecurityHeaders(Model):
    """Security fields for browsers. `true` selects the defaults."""

    hsts: Annotated[Text, _OFF, AfterValidator(_hsts), Takes("text or `off`")] = Field(
        default="max-age=31536000", description="`Strict-Transport-Security`, sent over TLS only, or `off`."
    )
    content_type_options: Annotated[Literal["nosniff", "off"], _OFF] = Field(
        default="nosniff", description="Value of `X-Content-Type-Options`."
    )
    frame_options: Annotated[Literal["DENY", "SAMEORIGIN", "off"], _OFF] = Field(
        default="DENY", description="Value of `X-Frame-Options`."
    )
    referrer_policy: Annotated[
        Literal[
            "no-referrer",
            "same-origin",
            "strict-origin",
            "strict-origin-when-cross-origin",
            "origin",
            "origin-when-cross-origin",
            "off",
        ],
        _OFF,
    ] = Field(default="no-referrer", description="Value of `Referrer-Policy`.")
    opener_policy: Annotated[
        Literal["same-origin", "same-origin-allow-popups", "noopener-allow-popups", "unsafe-none", "off"], _OFF
    ] = Field(default="same-origin", description="Value of `Cross-Origin-Opener-Policy`.")
    resource_policy: Annotated[Literal["same-origin", "same-site", "cross-origin", "off"], _OFF] = Field(
        default="same-origin", description="Value of `Cross-Origin-Resource-Policy`."
    )
    content_security_policy: Annotated[Value, _OFF, Takes("text or `off`")] = Field(
        default="off", description="`Content-Security-Policy`, such as `frame-ancestors 'none'`, or `off`."
    )
    permissions_policy: Annotated[Value, _OFF, Takes("text or `off`")] = Field(
        default="off", description="`Permissions-Policy`, or `off`."
    )
    override: Flag = Field(
        default=False, description="`true`: replace the fields of the service; otherwise only missing ones are added."
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, found: Any) -> Any:
        if found is True:
            return {}
        if not isinstance(found, dict | SecurityHeaders):
            raise ValueError(f"found {describe(found)}; allowed: true, off, or a mapping")
        return found


def _none(found: object) -> object:
    if found is None:
        raise ValueError("found nothing; allowed: true, off, or a mapping")
    return None if found in (False, "off") else found


OptionalSecurityHeaders = Annotated[
    SecurityHeaders | None, BeforeValidator(_none), Takes("`true`, `off` or [mapping](#security_headers)")
]

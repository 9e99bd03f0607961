"""Sessions and logins."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from passerelle.config.models.base import Model, Takes
from passerelle.config.models.guards import OneOrMore
from passerelle.config.models.units import Duration
from passerelle.config.models.values import SHARED, Flag, PlainPath, ServiceName, Store, Text, WholeNumber
from passerelle.config.reading.wording import describe

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:.]+\](:[0-9]{1,5})?").fullmatch


def _cookie(text: str) -> str:
    if _NAME(text) and not text.lower().startswith("__"):
        return text
    raise ValueError(f"found {text!r}; allowed are letters, digits, - and _; the prefix __Host- is added")


def _origin(text: str) -> str:
    if _ORIGIN(text.lower()):
        return text.lower()
    raise ValueError(f"found {text!r}; allowed is an origin, such as https://shop.example, without a path")


Origin = Annotated[Text, AfterValidator(_origin), Takes("origin")]


def _yes(found: object) -> object:
    if found is not True:
        raise ValueError(f"found {describe(found)}; allowed: true")
    return found


Yes = Annotated[Literal[True], BeforeValidator(_yes), Takes("`true`")]


class Sessions(Model):
    """Sessions: their store, cookie, lifetime and CSRF protection."""

    store: Store = Field(
        default=SHARED,
        description="Where sessions are stored: `redis`, or the path of an SQLite file, created if missing.",
    )
    cookie: Annotated[Text, AfterValidator(_cookie), Takes("name of a cookie")] = Field(
        default="session", description="Name of the cookie, after the prefix `__Host-`."
    )
    idle: Duration = Field(default=1800.0, description="How long an unused session lasts.")
    absolute: Duration = Field(default=43200.0, description="How long a session lasts at most after the login.")
    csrf: Literal["token", "origin"] = Field(
        default="token",
        description="CSRF protection: the token of the session and a known origin, or a known origin alone.",
    )
    origins: Annotated[tuple[Origin, ...], OneOrMore] = Field(
        default=(),
        min_length=1,
        description="Further origins whose pages may use sessions, in addition to the gateway's own.",
    )
    insecure: Flag = Field(
        default=False,
        description="`true`: cookies without `Secure` and `__Host-`. Only if `listen` has loopback addresses alone.",
    )


class Login(Model):
    """The service that verifies user names and passwords, and the limits on wrong ones."""

    service: ServiceName = Field(description="The service that verifies passwords.")
    path: PlainPath = Field(description="Path of the verification request, a `POST`; no route should lead to it.")
    attempts: Annotated[int, WholeNumber(1, 1000)] = Field(
        default=5, description="Wrong passwords for one user name before further ones are refused. Beyond it: 429."
    )
    address_attempts: Annotated[int, WholeNumber(1, 100_000)] = Field(
        default=20,
        description="Wrong passwords from one client address (IPv6: /64) before further ones are refused. Beyond "
        "it: 429.",
    )
    forgiven: Duration = Field(
        default=180.0,
        description="Time after which one wrong password is forgiven, so that one more attempt is allowed.",
    )

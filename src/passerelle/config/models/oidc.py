"""Login with an identity provider (OpenID Connect)."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from passerelle.config.models.base import Model, Takes
from passerelle.config.models.guards import OneOrMore, Scope
from passerelle.config.models.sessions import Origin
from passerelle.config.models.units import Duration, DurationOrOff
from passerelle.config.models.values import PlainPath, Text

_ISSUER = re.compile(r"https://[^/?#@]+(/[!-~]*)?|http://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?(/[!-~]*)?")


def _issuer(text: str) -> str:
    if _ISSUER.fullmatch(text) and "?" not in text and "#" not in text:
        return text
    raise ValueError(f"found {text!r}; allowed is an https:// address without a query, as the provider states it")


def _visible(text: str) -> str:
    if re.fullmatch(r"[ -~]{1,1024}", text):
        return text
    raise ValueError("found another form than 1 to 1024 visible ASCII characters")


class Oidc(Model):
    """Login with an identity provider (OpenID Connect), for routes with `auth: [oidc]`."""

    issuer: Annotated[Text, AfterValidator(_issuer), Takes("`https://` address")] = Field(
        description="The provider, exactly as it names itself in its metadata, which are found below this address."
    )
    client_id: Annotated[Text, AfterValidator(_visible), Takes("text")] = Field(
        description="The name of the gateway at the provider."
    )
    client_secret: Annotated[Text, AfterValidator(_visible), Takes("text")] = Field(
        repr=False, description="The secret of the gateway at the provider; preferably as `${file:…}`."
    )
    origin: Origin = Field(
        description="The address of the gateway in browsers, such as `https://shop.example`; no `Host` changes it."
    )
    scopes: Annotated[tuple[Scope, ...], OneOrMore] = Field(
        default=("openid",), min_length=1, description="The scopes that are requested; `openid` is one of them."
    )
    consumer_claim: Text = Field(default="sub", description="The claim of the ID token that names the consumer.")
    roles_claim: Text = Field(
        default="roles",
        description="The claim with the roles, a list or text with blanks; `a.b` is the member `b` of the claim `a`.",
    )
    refresh: DurationOrOff = Field(
        default="off",
        description="How old roles may be: after this time, a refresh token is exchanged for current ones, or `off`.",
    )
    after_logout: PlainPath = Field(default="/", description="The path that browsers are sent to after a logout.")
    leeway: Duration = Field(default=10.0, description="Tolerated clock difference, for `exp`, `nbf` and `iat`.")

"""The guard of routes with ``auth: [oidc]``: it sends browsers without a session to the identity provider."""

from __future__ import annotations

import time
from collections.abc import Sequence

from passerelle.access.oidc.provider import OidcProvider
from passerelle.errors import Kind
from passerelle.http.messages import Fields, Response
from passerelle.security.credentials.authentication import Authenticate, AuthenticationMethod
from passerelle.security.guard import GuardedCall, PendingResult, RequestRefused
from passerelle.security.oidc.metadata import Metadata
from passerelle.security.oidc.pending_login import LoginCookies, PendingLogin

# No page may learn from a Referer what an address of the login has in its query (RFC 9700 §4.2.4).
PRIVATE: Fields = [(b"Cache-Control", b"no-store"), (b"Referrer-Policy", b"no-referrer")]


class AuthenticateOrLogin(Authenticate):
    """Guard that requires a credential of any of ``methods``; browsers without one are redirected to the provider."""

    __slots__ = ("_cookies", "_provider")

    def __init__(
        self,
        methods: Sequence[AuthenticationMethod],
        hidden: Sequence[bytes],
        provider: OidcProvider,
        cookies: LoginCookies,
    ) -> None:
        super().__init__(methods, hidden)
        self._provider = provider
        self._cookies = cookies

    def __call__(self, call: GuardedCall) -> Response | PendingResult | None:
        """Establish ``call.identity``, or begin a login."""
        try:
            return super().__call__(call)
        except RequestRefused as refused:
            if refused.kind is not Kind.UNAUTHENTICATED or not is_navigation(call):
                raise
        return begin(self._provider, self._cookies, call, (call.path + call.query).decode("latin-1"))


def begin(provider: OidcProvider, cookies: LoginCookies, call: GuardedCall, path: str) -> Response | PendingResult:
    """Redirect the browser to the provider, for a login that ends at ``path``; or return what to wait for.

    :raises Failure: if the provider does not respond.
    """
    metadata = provider.metadata()
    if not isinstance(metadata, Metadata):
        return metadata
    login, settings = PendingLogin.begin(path, time.time()), provider.settings
    call.response_fields += cookies.set_line(login)
    url = login.url(metadata.authorization, settings.client, settings.redirect_uri, " ".join(settings.scopes))
    return Response(302, [(b"Location", url.encode("ascii")), *PRIVATE])


def is_navigation(call: GuardedCall) -> bool:
    """Return whether the request loads a page: only then can a redirect to another site help its client."""
    if call.method not in (b"GET", b"HEAD") or call.get(b"upgrade") is not None:
        return False
    mode = call.get(b"sec-fetch-mode")
    if mode is not None:
        return mode == b"navigate" and call.get(b"sec-fetch-dest") in (None, b"document")
    accept = (call.get(b"accept") or b"").lower()
    return b"text/html" in accept and call.get(b"x-requested-with") is None

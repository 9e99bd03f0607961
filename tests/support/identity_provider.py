"""An identity provider for tests: the OpenID Connect server of Authlib, on a free loopback port.

Authlib checks what a provider checks: the client and its secret, the redirect URI, the code challenge, and that a code
is used once. What it lacks is added here: metadata, ``iss`` in responses (RFC 9207), logout tokens, other keys.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit

import flask
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import AuthorizationCodeMixin, ClientMixin, TokenMixin, grants
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core import OpenIDCode
from joserfc import jwt
from joserfc.jwk import RSAKey
from werkzeug.serving import make_server

CLIENT, SECRET = "gateway", "s3cret/with:odd=characters"
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"


@dataclass
class User:
    sub: str
    claims: dict[str, Any]

    def get_user_id(self) -> str:
        return self.sub


class _Client(ClientMixin):
    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def get_client_id(self) -> str:
        return CLIENT

    def get_default_redirect_uri(self) -> str:
        return self._provider.redirect_uri

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri == self._provider.redirect_uri

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == SECRET

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == self._provider.auth_method

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in ("authorization_code", "refresh_token")


@dataclass
class _Code(AuthorizationCodeMixin):
    code: str
    redirect_uri: str
    scope: str
    nonce: str | None
    user: User
    code_challenge: str | None
    code_challenge_method: str | None

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str | None:
        return self.nonce

    def get_auth_time(self) -> int:
        return int(time.time())

    def get_acr(self) -> None:
        return None

    def get_amr(self) -> None:
        return None


@dataclass
class _Refresh(TokenMixin):
    sub: str
    scope: str

    def check_client(self, client: _Client) -> bool:
        return client.get_client_id() == CLIENT

    def get_scope(self) -> str:
        return self.scope


@dataclass
class Provider:
    """The provider. Tests change its attributes: what it claims, signs with, and leaves out."""

    redirect_uri: str = ""
    auth_method: str = "client_secret_basic"
    user: User = field(default_factory=lambda: User("ada", {"roles": ["admin"], "sid": "session-1"}))
    sends_issuer: bool = False
    is_down: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)  # replace those of the next ID tokens
    codes: dict[str, _Code] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    refreshable: dict[str, _Refresh] = field(default_factory=dict)  # a refresh token is used once
    refreshes_without_id: bool = False
    exchanges: list[dict[str, str]] = field(default_factory=list)
    algorithm: str = "RS256"

    def __post_init__(self) -> None:
        self.keys: list[RSAKey] = []
        self.rotate()
        self._app = flask.Flask(__name__)
        self._app.secret_key = "test"
        self._app.config["OAUTH2_REFRESH_TOKEN_GENERATOR"] = True
        self._routes()
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = make_server("127.0.0.1", 0, self._app, threaded=True)
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(5)
        self._server.server_close()

    def rotate(self) -> None:
        """Sign with a new key, the only one that is published."""
        self.keys = [RSAKey.generate_key(2048, {"kid": uuid.uuid4().hex, "use": "sig"}, private=True)]

    def sign(self, claims: dict[str, Any], header: dict[str, Any] | None = None, key: Any = None) -> str:
        key = key or self.keys[-1]
        header = {"alg": self.algorithm, "kid": key.kid, **(header or {})}
        return jwt.encode(header, claims, key, algorithms=["RS256", "HS256", "none"])

    def logout_token(self, **changes: Any) -> str:
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 120,
            "jti": uuid.uuid4().hex,
            "events": {LOGOUT_EVENT: {}},
            "sub": self.user.sub,
            **changes,
        }
        return self.sign({name: value for name, value in claims.items() if value is not None})

    def id_token(self, user: User, nonce: str | None) -> str:
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 300,
            "sub": user.sub,
            "nonce": nonce,
            **user.claims,
            **self.claims,
        }
        signed = self.sign({name: value for name, value in claims.items() if value is not None})
        self.tokens.append(signed)
        return signed

    def keep(self, token: dict[str, Any], user: User) -> None:
        self.refreshable[token["refresh_token"]] = _Refresh(user.sub, token.get("scope", ""))

    def authorize(self, url: str) -> tuple[str, dict[str, str]]:
        """Let the user log in at ``url``; return where the browser is sent, and the parameters of it."""
        with self._app.test_client() as browser:
            answer = browser.get(f"{urlsplit(url).path}?{urlsplit(url).query}")
        assert answer.status_code == 302, answer.text
        location = answer.headers["Location"]
        return location, {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}

    def _routes(self) -> None:
        app, provider = self._app, self
        server = AuthorizationServer(
            app,
            query_client=lambda name: _Client(provider) if name == CLIENT else None,
            save_token=lambda token, request: provider.keep(token, request.user),
        )

        class CodeGrant(grants.AuthorizationCodeGrant):
            TOKEN_ENDPOINT_AUTH_METHODS: ClassVar = ["client_secret_basic", "client_secret_post"]

            def save_authorization_code(self, code: str, request: Any) -> None:
                asked = request.payload.data
                provider.codes[code] = _Code(
                    code,
                    asked["redirect_uri"],
                    asked.get("scope", ""),
                    asked.get("nonce"),
                    request.user,
                    asked.get("code_challenge"),
                    asked.get("code_challenge_method"),
                )

            def query_authorization_code(self, code: str, client: Any) -> _Code | None:
                return provider.codes.get(code)

            def delete_authorization_code(self, authorization_code: _Code) -> None:
                del provider.codes[authorization_code.code]

            def authenticate_user(self, authorization_code: _Code) -> User:
                return authorization_code.user

        class IdToken(OpenIDCode):
            def exists_nonce(self, nonce: str, request: Any) -> bool:
                return False

            def process_token(self, grant: Any, response: Any) -> Any:
                _, token, _ = response
                code = grant.request.authorization_code
                provider.tokens.append(token["access_token"])
                token["id_token"] = provider.id_token(code.user, code.nonce)
                return token

        server.register_grant(CodeGrant, [IdToken(require_nonce=True), CodeChallenge(required=True)])

        class RefreshGrant(grants.RefreshTokenGrant):
            TOKEN_ENDPOINT_AUTH_METHODS: ClassVar = CodeGrant.TOKEN_ENDPOINT_AUTH_METHODS
            INCLUDE_NEW_REFRESH_TOKEN = True

            def authenticate_refresh_token(self, refresh_token: str) -> _Refresh | None:
                return provider.refreshable.pop(refresh_token, None)

            def authenticate_user(self, refresh_token: _Refresh) -> User | None:
                return provider.user if provider.user.sub == refresh_token.sub else None

            def issue_token(self, user: User, refresh_token: _Refresh) -> Any:
                token = super().issue_token(user, refresh_token)
                if not provider.refreshes_without_id:
                    token["id_token"] = provider.id_token(user, None)
                return token

            def revoke_old_credential(self, refresh_token: _Refresh) -> None:
                pass

        server.register_grant(RefreshGrant)

        @app.before_request
        def fail() -> Any:
            return ("down", 503) if provider.is_down else None

        @app.get("/.well-known/openid-configuration")
        def metadata() -> Any:
            found = {
                "issuer": provider.issuer,
                "authorization_endpoint": f"{provider.issuer}/authorize",
                "token_endpoint": f"{provider.issuer}/token",
                "jwks_uri": f"{provider.issuer}/keys",
                "end_session_endpoint": f"{provider.issuer}/end",
                "code_challenge_methods_supported": ["S256"],
                "token_endpoint_auth_methods_supported": [provider.auth_method],
                "authorization_response_iss_parameter_supported": provider.sends_issuer,
            }
            return flask.jsonify({**found, **provider.metadata})

        @app.get("/keys")
        def keys() -> Any:
            return flask.jsonify({"keys": [key.as_dict(private=False) for key in provider.keys]})

        @app.get("/authorize")
        def authorize() -> Any:
            grant = server.get_consent_grant(end_user=provider.user)
            answer = server.create_authorization_response(grant=grant, grant_user=provider.user)
            if provider.sends_issuer:
                parts = urlsplit(answer.headers["Location"])
                query = urlencode([*parse_qsl(parts.query), ("iss", provider.issuer)])
                answer.headers["Location"] = urlunsplit(parts._replace(query=query))
            return answer

        @app.post("/token")
        def token() -> Any:
            provider.exchanges.append(flask.request.form.to_dict())
            return server.create_token_response()

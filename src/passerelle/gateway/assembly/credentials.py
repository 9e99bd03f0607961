"""Opens the stores and keys of credentials, or keeps those of before a reload."""

from __future__ import annotations

import asyncio
import sqlite3
from math import inf
from typing import TYPE_CHECKING

from passerelle.access.api_keys import FileKeyProvider, KeyProvider, RedisKeyProvider
from passerelle.access.redis_sessions import RedisSessionProvider
from passerelle.access.sessions import FileSessionProvider, SessionProvider, SessionSettings
from passerelle.config.models.config import Config
from passerelle.config.models.guards import Keys
from passerelle.config.models.values import SHARED
from passerelle.errors import CannotStart
from passerelle.security.credentials.api_keys import ApiKey
from passerelle.security.credentials.authentication import QUERY_KEY_FIELD, KeyMethod, KnownKey

if TYPE_CHECKING:
    from passerelle.access.jwt_keys import JwtProvider
    from passerelle.access.oidc.provider import OidcProvider
    from passerelle.access.redis_client import RedisClient


def open_keys(
    config: Config, loop: asyncio.AbstractEventLoop, redis: RedisClient | None, before: KeyProvider | None, same: bool
) -> KeyProvider | None:
    """Open the API keys, or keep those of ``before`` (``same``: they are configured as before). None without any."""
    settings = config.keys
    if settings is None:
        return None
    if not settings.has_store:
        return KeyProvider(KeyMethod(settings.header.lower().encode("ascii")))
    if settings.store == SHARED:
        if same and isinstance(before, RedisKeyProvider) and before.redis is redis:
            return before
        return RedisKeyProvider(_required_redis(redis), settings.header)
    if same and before is not None:
        return before
    try:
        return FileKeyProvider(settings.store, settings.header, loop)
    except sqlite3.Error as error:
        raise CannotStart(f"keys: cannot open {settings.store}: {error}") from error


def key_fields(settings: Keys) -> tuple[bytes, ...]:
    """Return the fields (lower case) that carry API keys: the configured one, and that for keys of the query."""
    own = settings.header.lower().encode("ascii")
    return (own, QUERY_KEY_FIELD) if settings.query is not None else (own,)


def fixed_keys(settings: Keys) -> dict[bytes, KnownKey]:
    """Return the keys of the file by their digests. Their ids are the beginnings of these."""
    keys = {each.digest: each for each in settings.fixed}
    return {
        digest: KnownKey.of(ApiKey(digest.hex()[:10], each.owner, each.scopes, 0, None, None, None, None))
        for digest, each in keys.items()
    }


def open_sessions(
    config: Config, loop: asyncio.AbstractEventLoop, redis: RedisClient | None, before: SessionProvider | None
) -> SessionProvider | None:
    """Open the sessions, or keep those of ``before``; None without any."""
    settings = config.sessions
    if settings is None:
        return None
    values = SessionSettings(
        settings.cookie,
        settings.idle,
        settings.absolute,
        settings.csrf == "token",
        settings.origins,
        settings.insecure,
    )
    if settings.store == SHARED:
        same = isinstance(before, RedisSessionProvider) and before.settings == values and before.redis is redis
        return before if same else RedisSessionProvider(values, _required_redis(redis))
    if isinstance(before, FileSessionProvider) and before.settings == values and before.path == settings.store:
        return before
    try:
        return FileSessionProvider(values, settings.store, loop)
    except sqlite3.Error as error:
        raise CannotStart(f"sessions: cannot open {settings.store}: {error}") from error


def read_tokens(config: Config, loop: asyncio.AbstractEventLoop, before: JwtProvider | None) -> JwtProvider | None:
    """Read or fetch the keys of JSON web tokens, or keep those of ``before``; None without any."""
    jwt = config.jwt
    if jwt is None:
        return None
    # Imported only where a configuration has tokens: joserfc and cryptography take 55 ms and 16 MB.
    from passerelle.access.jwt_keys import JwtProvider, JwtSettings
    from passerelle.security.jwt.verifier import JwtRules

    rules = JwtRules(
        frozenset(jwt.algorithms),
        jwt.issuer,
        frozenset(jwt.audience),
        jwt.leeway,
        jwt.consumer_claim,
        jwt.scope_claim,
        {claim: name.encode("ascii") for claim, name in jwt.forward.items()},
    )
    settings = JwtSettings(rules, jwt.secret, jwt.key, jwt.jwks, jwt.refresh, jwt.cooldown)
    if before is not None and before.settings == settings and before.fetches:
        return before  # with its key set: no request waits for another fetch
    try:
        return JwtProvider(settings, loop)
    except OSError as error:
        raise CannotStart(f"jwt: cannot read {error.filename}: {error.strerror}") from error
    except ValueError as error:
        raise CannotStart(f"jwt: {jwt.key}: {error}") from error


def open_oidc(config: Config, loop: asyncio.AbstractEventLoop, before: OidcProvider | None) -> OidcProvider | None:
    """Return the identity provider, or that of ``before`` with its metadata and keys; None without one."""
    oidc = config.oidc
    if oidc is None:
        return None
    # Imported only where a configuration has a provider: see read_tokens.
    from passerelle.access.oidc.provider import OidcProvider, OidcSettings

    route = next(route for route in config.routes if route.oidc)
    settings = OidcSettings(
        oidc.issuer,
        oidc.client_id,
        oidc.client_secret,
        oidc.scopes,
        oidc.origin,
        route.path.rpartition("/")[0],
        oidc.after_logout,
        oidc.consumer_claim,
        oidc.roles_claim,
        oidc.leeway,
        inf if isinstance(oidc.refresh, str) else oidc.refresh,
    )
    return before if before is not None and before.settings == settings else OidcProvider(settings, loop)


def redis_client(config: Config, loop: asyncio.AbstractEventLoop, before: RedisClient | None) -> RedisClient | None:
    """Return the client of Redis, or None where no guard uses it."""
    has_limits = config.basic is not None or any(route.rate_limit or route.login for route in config.routes)
    has_credentials = SHARED in config.stores.values()
    if config.redis is None or not (has_limits or has_credentials):
        return None
    if before is not None and (before.url, before.is_essential) == (config.redis.url, has_credentials):
        return before
    # Part of an optional dependency, whose presence the check of the configuration has established.
    from passerelle.access.redis_client import RedisClient

    return RedisClient(config.redis.url, loop, config.workers, is_essential=has_credentials)


def _required_redis(redis: RedisClient | None) -> RedisClient:
    assert redis is not None, "a checked configuration with keys or sessions in Redis has a redis"
    return redis

"""API keys shared by all gateways, in Redis: the data that :mod:`.api_keys` stores in a file, under the same digests.

A key is a hash under its id, with times in whole seconds. A second Redis key maps the digest to the id, and a set holds
all ids. No entry expires, so that expired and revoked keys remain listed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from passerelle.errors import Failure
from passerelle.security.credentials import authentication
from passerelle.security.credentials.api_keys import ApiKey, UnknownKey, digest_of, is_id, new_key
from passerelle.security.credentials.authentication import CredentialRejected, KeyMethod, KnownKey
from passerelle.security.credentials.bounded_memo import BoundedMemo
from passerelle.security.credentials.redis_lookup import (
    BELIEVED,
    UNREADABLE,
    look_up_pending,
    parse_words,
    store_unavailable,
    unreadable_reply,
)
from passerelle.security.guard import GuardedCall
from passerelle.security.ratelimit.redis import ScriptCall, ScriptRunner

PREFIX: Final = b"passerelle:1:keys:"
IDS: Final = PREFIX + b"ids"

# How long a cached key remains valid while Redis is unavailable (seconds): long enough for a restart or a failover.
HOLDS_ON: Final = 300.0

_FIELDS: Final = ("owner", "scopes", "created", "expires", "revoked", "last_used", "replaces")

# The prologue sets ``now`` (us). KEYS: the Redis key of the digest. ARGV: the prefix of keys. Returns the id and the
# values of the fields (empty for absent ones), or nothing if there is no such key. Records a use of a valid key.
FIND: Final = f"""
local id = redis.call('GET', KEYS[1])
if not id then return {{}} end
local name = ARGV[1] .. id
local found = redis.call('HMGET', name, '{"', '".join(_FIELDS)}')
if not found[1] then return {{}} end
if not found[5] and not (found[4] and tonumber(found[4]) * 1000000 <= now) then
  redis.call('HSET', name, 'last_used', string.format('%.0f', math.floor(now / 1000000)))
end
for i = 1, {len(_FIELDS)} do found[i] = found[i] or '' end
table.insert(found, 1, id)
return found
"""

# The remaining scripts are for the commands. KEYS: the key. ARGV: now. Returns whether the key exists.
REVOKE: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSETNX', KEYS[1], 'revoked', ARGV[1])
return 1
"""

# KEYS: the key, the Redis key of its digest, the set of ids; for a replacement also the old key. ARGV: the id, the
# number of field arguments, the fields and values; for a replacement also now, and the latest expiry of the old key.
ADD: Final = """
local count = tonumber(ARGV[2])
if KEYS[4] then
  local found = redis.call('HMGET', KEYS[4], 'created', 'expires', 'revoked')
  local now, till = tonumber(ARGV[count + 3]), tonumber(ARGV[count + 4])
  local expires = tonumber(found[2] or '')
  if not found[1] or found[3] or (expires and expires <= now) then return 0 end
  if not expires or till < expires then redis.call('HSET', KEYS[4], 'expires', ARGV[count + 4]) end
end
redis.call('HSET', KEYS[1], unpack(ARGV, 3, count + 2))
redis.call('SET', KEYS[2], ARGV[1])
redis.call('SADD', KEYS[3], ARGV[1])
return 1
"""


def _name(identity: str) -> bytes:
    return PREFIX + b"key:" + identity.encode("ascii")


def _name_of(digest: bytes) -> bytes:
    return PREFIX + b"digest:" + digest.hex().encode("ascii")


def _digest(key: str) -> bytes:
    digest = digest_of(key.encode("ascii"))
    assert digest is not None, "generated keys are well-formed"
    return digest


def _key(identity: str, found: Sequence[bytes]) -> ApiKey:
    owner, scopes, created, expires, revoked, last_used, replaces = found
    return ApiKey(
        identity,
        owner.decode(),
        parse_words(scopes),
        int(created),
        int(expires) if expires else None,
        int(revoked) if revoked else None,
        int(last_used) if last_used else None,
        replaces.decode() or None,
    )


class BlockingRedis(Protocol):
    """Client of Redis with blocking calls, as in the package redis."""

    def eval(self, script: str, numkeys: int, *keys_and_args: Any) -> Any:
        """Run a script."""

    def smembers(self, name: Any) -> Any:
        """Return all members of a set."""

    def hmget(self, name: Any, keys: Any) -> Any:
        """Return the values of fields."""

    def close(self) -> None:
        """Disconnect."""


class RedisKeyStore:
    """Store for creating and revoking keys, like :class:`.api_keys.KeyStore`.

    Its methods block, and raise the exceptions of ``client`` if Redis is unavailable.
    """

    def __init__(self, client: BlockingRedis) -> None:
        self._client = client

    def close(self) -> None:
        """Disconnect."""
        self._client.close()

    def create(self, owner: str, scopes: Iterable[str], now: int, expires: int | None = None) -> tuple[ApiKey, str]:
        """Create a key for ``owner``; return its stored properties and the key itself, which is not stored."""
        identity, key = new_key()
        made = ApiKey(identity, owner, tuple(scopes), now, expires, None, None, None)
        if not self._add(made, _digest(key)):
            raise ValueError("result of storing a key")
        return made, key

    def rotate(self, identity: str, now: int, overlap: int, expires: int | None = None) -> tuple[ApiKey, str]:
        """Create a key that replaces another; the old key remains valid for at most ``overlap`` seconds.

        :raises UnknownKey: if no key has this id, or the key is no longer valid.
        """
        old = self.get(identity)
        if old is None:
            raise UnknownKey(identity)
        new, key = new_key()
        made = ApiKey(new, old.owner, old.scopes, now, expires, None, None, identity)
        if not self._add(made, _digest(key), _name(identity), now, now + overlap):
            raise UnknownKey(identity)
        return made, key

    def revoke(self, identity: str, now: int) -> None:
        """Revoke a key permanently; revoking it again has no effect. :raises UnknownKey: if no key has this id."""
        if not is_id(identity) or not self._client.eval(REVOKE, 1, _name(identity), now):
            raise UnknownKey(identity)

    def get(self, identity: str) -> ApiKey | None:
        """Return the key with this id, or None."""
        if not is_id(identity):
            return None
        found = self._client.hmget(_name(identity), _FIELDS)
        if found[0] is None:
            return None
        try:
            return _key(identity, [value or b"" for value in found])
        except UNREADABLE:
            raise ValueError(f"data of key {identity}") from None

    def all(self) -> list[ApiKey]:
        """Return all keys, oldest first."""
        found = [self.get(identity.decode()) for identity in self._client.smembers(IDS)]
        return sorted((key for key in found if key is not None), key=lambda key: (key.created, key.id))

    def put(self, key: ApiKey, digest: bytes) -> bool:
        """Import a key from another store; return False, changing nothing, if its id exists already."""
        return self.get(key.id) is None and self._add(key, digest)

    def _add(self, key: ApiKey, digest: bytes, replaced: bytes | None = None, *times: int) -> bool:
        values = [key.owner, json.dumps(key.scopes), key.created, key.expires, key.revoked, key.last_used, key.replaces]
        pairs = [word for pair in zip(_FIELDS, values, strict=True) if pair[1] is not None for word in pair]
        names = [_name(key.id), _name_of(digest), IDS, *([] if replaced is None else [replaced])]
        return bool(self._client.eval(ADD, len(names), *names, key.id, len(pairs), *pairs, *times))


@dataclass(slots=True)
class _CachedKey(KnownKey):
    seen: float


class RedisKeyMethod(KeyMethod):
    """Authentication by API keys in ``store``.

    A lookup is cached for a second, or for :data:`HOLDS_ON` seconds while the store is unavailable. ``elapsed`` gives
    seconds and is monotonic.
    """

    __slots__ = ("_elapsed", "_known", "_store")

    def __init__(
        self,
        store: ScriptRunner,
        header: bytes,
        clock: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(header, clock)
        self._store = store
        self._elapsed = elapsed
        self._known: BoundedMemo[_CachedKey] = BoundedMemo()

    def _look_up(self, call: GuardedCall, digest: bytes) -> KnownKey | ScriptCall:
        known = self._known.touch(digest)
        now = self._elapsed()
        if known is not None and now < known.seen + BELIEVED:
            return known
        found = look_up_pending(
            call, digest, lambda: self._store.run_or_queue(FIND, [_name_of(digest)], [PREFIX + b"key:"])
        )
        if found is None:
            return _grace_period(known, now, store_unavailable("API keys"))
        if not isinstance(found, list):
            return found
        if not found:
            self._known.pop(digest, None)
            raise CredentialRejected("unknown API key")
        try:
            identity, *fields = cast("list[bytes]", found)
            credential = KnownKey.of(_key(identity.decode("ascii"), fields))
        except UNREADABLE:
            return _grace_period(known, now, unreadable_reply("API keys"))
        known = _CachedKey(credential.key, credential.identity, now)
        self._known.keep(digest, known, authentication.REMEMBERED_KEYS)
        return known


def _grace_period(known: _CachedKey | None, now: float, why: Failure) -> _CachedKey:
    """Keep a cached key valid for a while if Redis does not reply."""
    if known is not None and now < known.seen + HOLDS_ON:
        return known
    raise why

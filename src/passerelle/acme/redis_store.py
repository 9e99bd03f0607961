"""The store of certificates in a Redis that several gateways share.

One gateway at a time orders: it holds a lease, which ends when the gateway no longer renews it. Pending challenges are
published to all gateways, because the authority may connect to any of them; each gateway reports with every poll which
ones its workers respond to. A revision counts changes, so that a poll reads nothing else while nothing changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from passerelle.acme.challenge import FIELDS, Pending
from passerelle.acme.schedule import Attempt
from passerelle.acme.store import Kept, News, StoreUnavailable, decode, encode
from passerelle.caching.redis.clients import connect
from passerelle.caching.redis.location import locate

LEASE: Final = 60_000
"""Milliseconds after which another gateway may order if the one that does is silent."""
_KEEP: Final = 400 * 86_400_000
"""Milliseconds after which Redis evicts certificates that no gateway has renewed."""
_PENDING: Final = 300_000
_MOST_PENDING: Final = 100
_ALIVE: Final = 15
"""Seconds after its last poll for which a gateway counts as running."""
_TIMEOUT: Final = 2.0
_SEEN_PAUSE: Final = 0.1
_SEEN_LIMIT: Final = 10.0
"""Seconds for the other gateways to respond to a challenge; after that the authority is asked to validate anyway."""

# KEYS: lock. ARGV: gateway, LEASE
LOCK: Final = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

# KEYS: lock. ARGV: gateway
UNLOCK: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

# KEYS: revision, challenges, seen. ARGV: gateway, the challenges that it responds to, _ALIVE
POLL: Final = """
redis.call('HSET', KEYS[3], ARGV[1], redis.call('TIME')[1] .. ' ' .. ARGV[2])
redis.call('EXPIRE', KEYS[3], ARGV[3])
return {redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])}
"""

# KEYS: seen. ARGV: challenges, _ALIVE, this gateway.
# Returns the number of other running gateways that do not respond to them.
UNSEEN: Final = """
local now = tonumber(redis.call('TIME')[1])
local found, missing = redis.call('HGETALL', KEYS[1]), 0
for i = 1, #found, 2 do
  local blank = string.find(found[i + 1], ' ', 1, true)
  if now - tonumber(string.sub(found[i + 1], 1, blank - 1)) > tonumber(ARGV[2]) then
    redis.call('HDEL', KEYS[1], found[i])
  elseif found[i] ~= ARGV[3] and string.sub(found[i + 1], blank + 1) ~= ARGV[1] then
    missing = missing + 1
  end
end
return missing
"""

# KEYS: revision, hash of certificates or accounts, hash of attempts. ARGV: field, value or an empty text, attempt or an
# empty text, _KEEP
KEEP: Final = """
if ARGV[2] ~= '' then redis.call('HSET', KEYS[2], ARGV[1], ARGV[2]); redis.call('PEXPIRE', KEYS[2], ARGV[4]) end
if ARGV[3] ~= '' then redis.call('HSET', KEYS[3], ARGV[1], ARGV[3]); redis.call('PEXPIRE', KEYS[3], ARGV[4]) end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return redis.call('INCR', KEYS[1])
"""


class RedisStore:
    """Keeps certificates in the Redis at ``url``; ``namespace`` separates gateways that share nothing else."""

    def __init__(self, url: str, namespace: str, *, lease: int = LEASE, seen_limit: float = _SEEN_LIMIT) -> None:
        location = locate(url)
        self._client, self._sentinels = connect(location)
        self._where = location.label
        self._prefix = f"passerelle:1:certificates:{namespace}:"
        self._lease = lease
        self._seen_limit = seen_limit
        self._gateway = os.urandom(8).hex()
        self._revision: bytes | None = b""
        self._scripts: dict[str, Any] = {
            script: self._client.register_script(script) for script in (LOCK, UNLOCK, POLL, UNSEEN, KEEP)
        }

    async def load(self, names: Iterable[str]) -> dict[str, Kept]:
        """Read certificates and attempts."""
        names = list(names)
        bundles, attempts = await self._do(self._read(names))
        return {name: Kept(bundle, decode(found)) for name, bundle, found in zip(names, bundles, attempts, strict=True)}

    async def _read(self, names: list[str]) -> tuple[list[bytes | None], list[bytes | None]]:
        client: Any = self._client
        bundles = await client.hmget(self._key("certificates"), names)
        return bundles, await client.hmget(self._key("attempts"), names)

    async def keep_certificate(self, name: str, bundle: bytes, attempt: Attempt) -> None:
        """Replace both at once."""
        await self._keep("certificates", name, bundle, encode(attempt))

    async def keep_attempt(self, name: str, attempt: Attempt) -> None:
        """Replace it."""
        await self._keep("certificates", name, b"", encode(attempt))

    async def account(self, directory: str) -> bytes | None:
        """Read the account."""
        client: Any = self._client
        found: bytes | None = await self._do(client.hget(self._key("accounts"), _digest(directory)))
        return found

    async def keep_account(self, directory: str, account: bytes) -> None:
        """Replace the account."""
        await self._keep("accounts", _digest(directory), account, b"")

    async def lock(self) -> bool:
        """Take or renew the lease."""
        return bool(await self._run(LOCK, ["lock"], [self._gateway, self._lease]))

    async def unlock(self) -> None:
        """Give up the lease."""
        await self._run(UNLOCK, ["lock"], [self._gateway])

    async def publish(self, challenges: Sequence[Pending]) -> None:
        """Publish the challenges, and wait until all running gateways respond to them."""
        client: Any = self._client
        if not challenges:
            await self._do(client.delete(self._key("challenges")))
            return
        published = os.urandom(8).hex()
        data = orjson.dumps({"published": published, "challenges": [dict(each) for each in challenges]})
        await self._do(client.set(self._key("challenges"), data, px=_PENDING))
        with contextlib.suppress(TimeoutError):  # then the authority may reach a gateway that does respond
            async with asyncio.timeout(self._seen_limit):
                while True:
                    if not await self._run(UNSEEN, ["seen"], [published, _ALIVE, self._gateway]):
                        return
                    await asyncio.sleep(_SEEN_PAUSE)

    async def poll(self, seen: str) -> News:
        """Report ``seen``, and return what has changed."""
        reply = await self._run(POLL, ["revision", "challenges", "seen"], [self._gateway, seen, _ALIVE])
        if not isinstance(reply, list) or len(reply) != 2:
            raise StoreUnavailable(f"Redis at {self._where}: an unexpected reply")
        changed = reply[0] != self._revision
        self._revision = reply[0]
        if reply[1] is None:
            return News(changed, ())
        try:
            found = orjson.loads(reply[1])
            listed = [{field: str(each[field]) for field in FIELDS} for each in found["challenges"][:_MOST_PENDING]]
            return News(changed, listed, str(found["published"]))
        except (ValueError, KeyError, TypeError):
            raise StoreUnavailable(f"Redis at {self._where}: {self._key('challenges')} is damaged") from None

    async def close(self) -> None:
        """Give up the lease, and disconnect."""
        with contextlib.suppress(StoreUnavailable):  # then it expires
            await self.unlock()
        for client in (self._client, *self._sentinels):
            await client.aclose()

    async def _keep(self, where: str, field: str, value: bytes, attempt: bytes) -> None:
        await self._run(KEEP, ["revision", where, "attempts"], [field, value, attempt, _KEEP])

    async def _run(self, script: str, keys: Sequence[str], arguments: Sequence[object]) -> Any:
        return await self._do(self._scripts[script](keys=[self._key(key) for key in keys], args=arguments))

    async def _do(self, work: Any) -> Any:
        try:
            async with asyncio.timeout(_TIMEOUT):
                return await work
        except Exception as error:
            # On invalid data, the client may raise any exception.
            raise StoreUnavailable(f"Redis at {self._where}: {str(error) or 'no reply'}") from error

    def _key(self, part: str) -> str:
        return self._prefix + part


def _digest(directory: str) -> str:
    return hashlib.blake2b(directory.encode(), digest_size=9).hexdigest()

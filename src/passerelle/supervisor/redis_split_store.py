"""The store of splits in a Redis that several gateways share.

For each split, one gateway leads: it holds a lease, which ends when the gateway no longer renews it. Each lease has a
higher fencing number than the one before, and a leader's write is refused if the lease is no longer its own. All writes
compare the revision of the record, so that none overwrites what its writer has not seen.

Each gateway publishes its counts since the step began, and the scripts keep their sum. Publishing is idempotent: a
reply that is lost does no harm. All keys expire.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from passerelle.caching.redis.clients import connect
from passerelle.caching.redis.location import locate
from passerelle.supervisor.split_record import Kept, Record, Tally
from passerelle.supervisor.split_store import FileStore, StoreUnavailable, Turn

LEASE: Final = 5_000
"""Milliseconds after which another gateway leads if the leader is silent."""
_KEEP: Final = 90 * 86_400_000
"""Milliseconds after which Redis evicts the record of a split that no gateway has."""
_KEEP_COUNTS: Final = 86_400_000
_TIMEOUT: Final = 1.0
"""Seconds for one reply."""
_NUMBERS: Final = len(Tally().numbers())

# KEYS: record, lease, fence, sums, counts of this gateway
# ARGV: gateway, LEASE, epoch of the counts, _KEEP, _KEEP_COUNTS, whether it wants to lead, counts...
# Returns the time (us), the record, the fencing number of this gateway (0: it does not lead), the sums.
TURN: Final = """
local t = redis.call('TIME')
local record = redis.call('HMGET', KEYS[1], 'data', 'epoch')
local leads = 0
if ARGV[6] == '1' then
  local holder = redis.call('GET', KEYS[2])
  if not holder then
    leads = redis.call('INCR', KEYS[3])
    redis.call('PEXPIRE', KEYS[3], ARGV[4])
    redis.call('SET', KEYS[2], ARGV[1] .. ':' .. leads, 'PX', ARGV[2])
  elseif string.sub(holder, 1, #ARGV[1] + 1) == ARGV[1] .. ':' then
    leads = tonumber(string.sub(holder, #ARGV[1] + 2))
    redis.call('PEXPIRE', KEYS[2], ARGV[2])
  end
end
local sums = {}
if record[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  if redis.call('HGET', KEYS[4], 'epoch') ~= record[2] then
    redis.call('DEL', KEYS[4])
    redis.call('HSET', KEYS[4], 'epoch', record[2])
  end
  redis.call('PEXPIRE', KEYS[4], ARGV[4])
  if ARGV[3] == record[2] then
    local same = redis.call('HGET', KEYS[5], 'epoch') == ARGV[3]
    for i = 7, #ARGV do
      local known = same and tonumber(redis.call('HGET', KEYS[5], i - 6) or '0') or 0
      redis.call('HINCRBY', KEYS[4], i - 6, tonumber(ARGV[i]) - known)
      redis.call('HSET', KEYS[5], i - 6, ARGV[i])
    end
    redis.call('HSET', KEYS[5], 'epoch', ARGV[3])
    redis.call('PEXPIRE', KEYS[5], ARGV[5])
  end
  for i = 1, #ARGV - 6 do sums[i] = tonumber(redis.call('HGET', KEYS[4], i) or '0') end
end
return {string.format('%.0f', t[1] * 1000000 + t[2]), record[1], leads, sums}
"""

# KEYS: record, lease. ARGV: revision, epoch, data, the lease that the writer must hold or an empty text, _KEEP
WRITE: Final = """
if ARGV[4] ~= '' and redis.call('GET', KEYS[2]) ~= ARGV[4] then return 0 end
if tonumber(redis.call('HGET', KEYS[1], 'revision') or '0') ~= tonumber(ARGV[1]) - 1 then return 0 end
redis.call('HSET', KEYS[1], 'revision', ARGV[1], 'epoch', ARGV[2], 'data', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return 1
"""

# KEYS: record. ARGV: revision, epoch, data, _KEEP
RESTORE: Final = """
if tonumber(redis.call('HGET', KEYS[1], 'revision') or '0') >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'revision', ARGV[1], 'epoch', ARGV[2], 'data', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
"""

# KEYS: lease. ARGV: the lease of this gateway
RELEASE: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class RedisSplitStore:
    """Keeps records in the Redis at ``url``, and a copy of them in ``copy`` for a start without Redis.

    ``namespace`` separates gateways that share a Redis and nothing else.
    """

    is_shared = True

    def __init__(self, url: str, namespace: str, copy: FileStore, *, lease: int = LEASE) -> None:
        location = locate(url)
        self._client, self._sentinels = connect(location)
        self._where = location.label
        self._namespace = namespace
        self._copy = copy
        self._lease = lease
        self._gateway = os.urandom(8).hex()
        self._leases: dict[str, str] = {}
        self._scripts: dict[str, Any] = {
            script: self._client.register_script(script) for script in (TURN, WRITE, RESTORE, RELEASE)
        }

    async def load(self, names: Iterable[str]) -> dict[str, Kept]:
        """Read the records; those of the copy if Redis is not available."""
        names = list(names)
        copies = await self._copy.load(names)
        found: dict[str, Kept] = {}
        for name in names:
            try:
                turn = await self.turn(name, 0, Tally(), wants_lead=False)
            except StoreUnavailable as error:
                break_off = Kept(problem=str(error))
                return {name: found.get(name) or copies.get(name, break_off) for name in names}
            if turn.record is not None:
                found[name] = Kept(turn.record, turn.tally)
            elif (copied := copies.get(name)) is not None and copied.record is not None:
                found[name] = copied  # Redis has lost it
        return found

    async def turn(self, name: str, epoch: int, tally: Tally, *, wants_lead: bool) -> Turn:
        """Publish counts, take or renew the lease, and return the state."""
        keys = [self._key(name, part) for part in ("record", "lease", "fence", "sums", f"counts:{self._gateway}")]
        arguments = [self._gateway, self._lease, epoch, _KEEP, _KEEP_COUNTS, int(wants_lead), *tally.numbers()]
        reply = await self._run(TURN, keys, arguments)
        if not isinstance(reply, list) or len(reply) != 4:
            raise StoreUnavailable(f"Redis at {self._where}: an unexpected reply")
        now, data, fence, sums = reply
        record = self._parse(name, data) if data is not None else None
        if fence:
            self._leases[name] = f"{self._gateway}:{fence}"
        else:
            self._leases.pop(name, None)
        if record is not None:
            await self._save_copy(name, record)
        return Turn(int(now) / 1e6, record, Tally(*sums) if len(sums) == _NUMBERS else Tally(), bool(fence))

    def _parse(self, name: str, data: bytes) -> Record:
        try:
            return Record.from_json(orjson.loads(data))
        except ValueError as error:
            key = self._key(name, "record")
            raise StoreUnavailable(f"Redis at {self._where}: the key {key} is damaged ({error}); delete it") from None

    async def write(self, name: str, record: Record, *, leading: bool) -> bool:
        """Write the record if the one before is in Redis and, with ``leading``, the lease is this gateway's."""
        lease = self._leases.get(name, "none") if leading else ""
        keys = [self._key(name, "record"), self._key(name, "lease")]
        arguments = [record.revision, _epoch(record), orjson.dumps(record.to_json()), lease, _KEEP]
        if not await self._run(WRITE, keys, arguments):
            return False
        await self._save_copy(name, record)
        return True

    async def restore(self, name: str, record: Record) -> None:
        """Write the record unless Redis has one of at least its revision."""
        arguments = [record.revision, _epoch(record), orjson.dumps(record.to_json()), _KEEP]
        await self._run(RESTORE, [self._key(name, "record")], arguments)

    async def close(self) -> None:
        """Give up the leases, and disconnect."""
        with contextlib.suppress(StoreUnavailable):  # then they expire
            for name, lease in self._leases.items():
                await self._run(RELEASE, [self._key(name, "lease")], [lease])
        for client in (self._client, *self._sentinels):
            await client.aclose()

    async def _save_copy(self, name: str, record: Record) -> None:
        with contextlib.suppress(StoreUnavailable):  # Redis has it
            await self._copy.keep(name, record)

    async def _run(self, script: str, keys: Sequence[str], arguments: Sequence[object]) -> Any:
        try:
            async with asyncio.timeout(_TIMEOUT):
                return await self._scripts[script](keys=keys, args=arguments)
        except Exception as error:
            # On invalid data, the client may raise any exception.
            why = str(error) or "no reply"
            raise StoreUnavailable(f"Redis at {self._where}: {why}") from error

    def _key(self, name: str, part: str) -> str:
        digest = hashlib.blake2b(name.encode(), digest_size=9).hexdigest()
        return f"passerelle:1:splits:{self._namespace}:{digest}:{part}"


def _epoch(record: Record) -> int:
    return record.rollout.epoch if record.rollout is not None else 0

"""Lua scripts that Redis runs atomically (EVALSHA), so that no other worker's operation interleaves."""

from __future__ import annotations

from typing import Final

# How long an invalidation is remembered, in milliseconds. A response whose request was forwarded longer ago than this
# could be stored although its URI has been invalidated since, so this should exceed every route's deadline.
REMEMBER: Final = 120_000

# Number of invalidations that a disconnected worker can replay; a worker that missed more clears its memory store.
LOG: Final = 1000

_NOW: Final = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
"""

# KEYS: entry, tombstone of its URI, time of the last purge, lock of its flight, tags...
# ARGV: value, lifetime in ms, ms since the request was forwarded, channel of flights, slot
PUT: Final = (
    _NOW
    + """
local requested = now - ARGV[3]
for i = 2, 3 do
  local at = redis.call('GET', KEYS[i])
  if at and tonumber(at) >= requested then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
for i = 5, #KEYS do
  -- Scores are expiry times: expired names do not accumulate under a tag in constant use.
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now)
  redis.call('ZADD', KEYS[i], now + ARGV[2], KEYS[1])
  if redis.call('PTTL', KEYS[i]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[i], ARGV[2]) end
end
if redis.call('DEL', KEYS[4]) == 1 then redis.call('PUBLISH', ARGV[4], '+' .. ARGV[5]) end
return 1
"""
)

# KEYS: sequence, log, tombstone or time of the last purge[, entry or tag]
# ARGV: channel, worker, operation, its subject (key, tag or path), REMEMBER, LOG
INVALIDATE: Final = (
    _NOW
    + """
redis.call('SET', KEYS[3], now, 'PX', ARGV[5])
if ARGV[3] == 'D' then
  redis.call('UNLINK', KEYS[4])
elseif ARGV[3] == 'T' then
  local names = redis.call('ZRANGE', KEYS[4], 0, -1)
  for i = 1, #names, 1000 do
    redis.call('UNLINK', unpack(names, i, math.min(i + 999, #names)))
  end
  redis.call('UNLINK', KEYS[4])
end
local number = redis.call('INCR', KEYS[1])
local message = number .. ' ' .. ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4]
redis.call('LPUSH', KEYS[2], message)
redis.call('LTRIM', KEYS[2], 0, ARGV[6] - 1)
redis.call('PUBLISH', ARGV[1], message)
return number
"""
)

# KEYS: lock. ARGV: channel of flights, slot
RELEASE: Final = """
if redis.call('DEL', KEYS[1]) == 1 then redis.call('PUBLISH', ARGV[1], '-' .. ARGV[2]) end
return 0
"""

"""What Redis does in one step (EVALSHA), so that no other worker's step comes between."""

from __future__ import annotations

from typing import Final

# How long an invalidation is remembered, in milliseconds: a response whose request went upstream longer ago than this
# could be stored although its URI was invalidated meanwhile. Longer than any route's deadline should be.
REMEMBER: Final = 120_000

# How many invalidations a worker that was cut off can make up for; past that it empties its memory.
LOG: Final = 1000

_NOW: Final = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
"""

# KEYS: entry, tombstone of its URI, time of the last purge, lock of its flight, tags...
# ARGV: value, lifetime in ms, ms since the request went upstream, channel of flights, slot
PUT: Final = (
    _NOW
    + """
local asked = now - ARGV[3]
for i = 2, 3 do
  local at = redis.call('GET', KEYS[i])
  if at and tonumber(at) >= asked then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
for i = 5, #KEYS do
  -- By when each is gone: names of what expired do not pile up under a tag that is always in use.
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now)
  redis.call('ZADD', KEYS[i], now + ARGV[2], KEYS[1])
  if redis.call('PTTL', KEYS[i]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[i], ARGV[2]) end
end
if redis.call('DEL', KEYS[4]) == 1 then redis.call('PUBLISH', ARGV[4], '+' .. ARGV[5]) end
return 1
"""
)

# KEYS: sequence, log, tombstone or time of the last purge[, entry or tag]
# ARGV: channel, worker, operation, what it is about, REMEMBER, LOG
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

"""How the two connections to Redis are made anew: that of the cache, and that of limits and credentials (seconds)."""

from __future__ import annotations

from typing import Final

# Until a connection that does not come to stand is given up.
CONNECT: Final = 2.0
# Between two attempts, the first of a row and each after it twice as long, up to the last.
FIRST_PAUSE: Final = 0.05
LAST_PAUSE: Final = 1.0
# What a new connection must last for Redis to be said to be back: one that lasts less was of no use.
USE: Final = 3.0

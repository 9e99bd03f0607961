"""Reconnection timing (seconds) of the two Redis clients: the cache's, and the one for limits and credentials."""

from __future__ import annotations

from typing import Final

# Timeout of a connection attempt.
CONNECT: Final = 2.0
# Pause between attempts: the first one, doubled after each failed attempt up to the last one.
FIRST_PAUSE: Final = 0.05
LAST_PAUSE: Final = 1.0
# How long a new connection must last before Redis is reported as back; a shorter connection was of no use.
USE: Final = 3.0

"""How often a worker looks after what it holds, and how long it waits; seconds, but for the backlog."""

from __future__ import annotations

# How often deadlines are looked at (seconds): a deadline is late by at most this.
TICK = 0.05
# How far a machine's clock may be set back (seconds) before the cache, whose answers live as much longer, is emptied.
SET_BACK = 3.0
# How often connections, pools and streams are looked at.
SWEEP = 1.0
BACKLOG = 4096
# How long the last log lines may take at the end.
LOG_SECONDS = 2.0

"""W3C Trace Context: parse what a client sends, and write the fields for services (https://www.w3.org/TR/trace-context/).

A context that violates the format counts as absent: the gateway begins a trace of its own, and drops ``tracestate``.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from passerelle.http.messages import Fields

TRACEPARENT: Final = b"traceparent"
TRACESTATE: Final = b"tracestate"

SAMPLED: Final = 0x01
# The only other flag that is defined: the right half of the trace id is random. It belongs to the trace id.
_RANDOM: Final = 0x02

# §3.2: lower case only, neither id all zero, version ff is invalid. Later versions may have more after a dash.
_TRACEPARENT: Final = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
# §3.3.2.2: a key, perhaps with a tenant, and a value of visible ASCII without comma and equals sign.
_MEMBER: Final = re.compile(
    rb"(?:[a-z0-9][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})="
    rb"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_MOST_MEMBERS: Final = 32
# §3.3.1.5: at least 512 characters are passed on; of longer lists, long members are dropped first, then the last ones.
_MOST_STATE: Final = 512
_LONG_MEMBER: Final = 128
# A longer field is not parsed.
_MOST_PARSED: Final = 8192


class RemoteContext(NamedTuple):
    """The context of the caller. The ids are hexadecimal; ``state`` is the value of ``tracestate`` or empty."""

    trace_id: bytes
    parent_id: bytes
    flags: int
    state: bytes

    @property
    def sampled(self) -> bool:
        """Whether the caller records the trace."""
        return bool(self.flags & SAMPLED)


def parse(fields: Fields) -> RemoteContext | None:
    """Return the context in ``fields`` (names in lower case); None if there is none, or none that is valid."""
    parents = [value for name, value in fields if name == TRACEPARENT]
    match = _TRACEPARENT.fullmatch(parents[0]) if len(parents) == 1 else None
    if match is None or (match[1] == b"00" and match[5] is not None):
        return None
    states = [value for name, value in fields if name == TRACESTATE]
    state = parse_state(b",".join(states)) if states else b""
    return RemoteContext(match[2], match[3], int(match[4], 16) & (SAMPLED | _RANDOM), state)


def parse_state(value: bytes) -> bytes:
    """Return ``tracestate`` as it is passed on; empty if any member is malformed or a key occurs twice."""
    if len(value) > _MOST_PARSED:
        return b""
    members = [member for part in value.split(b",") if (member := part.strip(b" \t"))]
    keys = {member.partition(b"=")[0] for member in members}
    if len(members) > _MOST_MEMBERS or len(keys) < len(members) or not all(map(_MEMBER.fullmatch, members)):
        return b""
    state = b",".join(members)
    if len(state) > _MOST_STATE:
        members = [member for member in members if len(member) <= _LONG_MEMBER]
        while len(state := b",".join(members)) > _MOST_STATE:
            members.pop()
    return state


def field_lines(trace_id: bytes, span_id: bytes, flags: int, state: bytes) -> bytes:
    """Return the field lines for a service, each with its CRLF."""
    line = b"traceparent: 00-%b-%b-%02x\r\n" % (trace_id, span_id, flags)
    return b"%btracestate: %b\r\n" % (line, state) if state else line

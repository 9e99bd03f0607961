"""Responses that the gateway reads for itself: their bound holds however they arrive."""

from __future__ import annotations

from typing import Any

import pytest

from passerelle.errors import Failure
from passerelle.http1.head import ResponseHead
from passerelle.upstream.subrequest import MAX_BODY, Subrequest

HEAD = ResponseHead(b"HTTP/1.1 200 OK\r\n\r\n")


class Policy:
    """Takes the place of the service: keeps the receiver, and counts cancels."""

    receiver: Any
    cancelled = 0

    def make_request(self, policy: Policy, receiver: Any, *_: object) -> Policy:
        self.receiver = receiver
        return self

    def cancel(self) -> None:
        self.cancelled += 1


@pytest.mark.parametrize("pieces", [1, 2, 3])
@pytest.mark.parametrize(("size", "held"), [(0, True), (MAX_BODY, True), (MAX_BODY + 1, False)])
def test_the_bound_of_a_response_is_the_same_in_one_read_and_in_several(size: int, held: bool, pieces: int) -> None:
    policy, bodies, failures = Policy(), [], []
    made: Any = policy
    Subrequest(made).request(b"", 0.0, lambda head, body: bodies.append(body), failures.append)
    body = b"x" * size
    step = -(-size // pieces) or 1
    if pieces == 1:
        policy.receiver.on_response(HEAD, body, True)
    else:
        policy.receiver.on_response(HEAD, body[:step], False)
        for start in range(step, size, step):
            if not policy.cancelled:
                policy.receiver.on_data(body[start : start + step])
        if not policy.cancelled:
            policy.receiver.on_end()
    assert bodies == ([body] if held else [])
    assert len(failures) == policy.cancelled == (0 if held else 1)
    assert all(isinstance(failure, Failure) for failure in failures)

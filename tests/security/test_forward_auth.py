"""Forward auth guard without a service: when it sends subrequests, who shares a verdict, and for how long."""

from __future__ import annotations

import pytest

from passerelle.errors import Failure, Kind
from passerelle.http.messages import Response
from passerelle.http1.head import RequestHead
from passerelle.security import forward_auth
from passerelle.security.forward_auth import ForwardAuth, Verdict, VerdictCallback
from passerelle.security.guard import GuardedCall

KEPT = Verdict(lines=b"X-User: ann\r\n", seconds=10.0)
ONCE = Verdict(lines=b"X-User: ann\r\n")
REFUSED = Verdict(Response(401, [], b"no"), seconds=10.0)


class Rig:
    """Guard whose subrequests the test answers; requests with the same path share a key."""

    def __init__(self, at_once: Verdict | Failure | None = None, *, shares: bool = True, is_open: bool = False) -> None:
        self.now = 0.0
        self.asked: list[VerdictCallback] = []
        self.failed: list[Failure] = []
        self.at_once = at_once
        self.guard = ForwardAuth(
            self._ask,
            {b"x-user"},
            (lambda asked: asked.path) if shares else None,
            clock=lambda: self.now,
            open_on_failure=is_open,
            failed=self.failed.append,
        )

    def _ask(self, asked: GuardedCall, done: VerdictCallback) -> None:
        self.asked.append(done)
        if self.at_once is not None:
            done(self.at_once)

    def request(self, path: bytes = b"/a") -> Client:
        return Client(self.guard, path)


class Client:
    """One request: calls the guard, and again when the pending result is complete."""

    def __init__(self, guard: ForwardAuth, path: bytes) -> None:
        self.guard = guard
        self.asked = GuardedCall(b"GET", path, b"10.0.0.1", RequestHead(b"", 100))
        self.result: object = "waits"
        self.go()

    def go(self) -> None:
        try:
            found = self.guard(self.asked)
        except Failure as failure:
            self.result = failure.kind
            return
        if found is None or isinstance(found, Response):
            self.result = found
        else:
            found.add_done_callback(self.go)


def test_requests_with_the_same_question_wait_for_one_answer() -> None:
    rig = Rig()
    clients = [rig.request() for _ in range(5)]
    other = rig.request(b"/b")
    assert len(rig.asked) == 2
    assert {client.result for client in clients} == {"waits"}
    rig.asked[0](KEPT)
    assert [client.result for client in clients] == [None] * 5
    assert {client.asked.upstream_fields for client in clients} == {b"X-User: ann\r\n"}
    assert other.result == "waits"


def test_an_answer_holds_for_its_time_and_no_longer() -> None:
    rig = Rig(KEPT)
    assert rig.request().result is None
    rig.now = 9.9
    assert rig.request().result is None
    assert len(rig.asked) == 1
    rig.now = 10.0
    assert rig.request().result is None
    assert len(rig.asked) == 2


def test_a_refusal_is_remembered_like_an_admission() -> None:
    rig = Rig(REFUSED)
    assert rig.request().result is REFUSED.refusal
    assert rig.request().result is REFUSED.refusal
    assert len(rig.asked) == 1


def test_a_refusal_of_one_client_is_not_sent_to_the_waiters() -> None:
    rig = Rig()
    clients = [rig.request() for _ in range(3)]
    assert len(rig.asked) == 1
    rig.asked[0](Verdict(Response(302, [(b"Set-Cookie", b"a=1")])))
    assert isinstance(clients[0].result, Response)
    assert len(rig.asked) == 3
    rig.asked[1](ONCE)
    rig.asked[2](ONCE)
    assert [client.result for client in clients[1:]] == [None, None]
    assert rig.request().result == "waits"


def test_without_a_lifetime_each_request_is_checked() -> None:
    rig = Rig(shares=False)
    clients = [rig.request() for _ in range(2)]
    assert len(rig.asked) == 2
    for done in rig.asked:
        done(KEPT)
    assert [client.result for client in clients] == [None, None]
    rig.request()
    assert len(rig.asked) == 3


@pytest.mark.parametrize(("is_open", "result"), [(False, Kind.UNVERIFIABLE), (True, None)])
@pytest.mark.parametrize("at_once", [False, True])
def test_a_failure_is_not_stored_for_long(is_open: bool, result: object, at_once: bool) -> None:
    failure = Failure(Kind.TIMEOUT, "slow")
    rig = Rig(failure if at_once else None, is_open=is_open)
    clients = [rig.request() for _ in range(2)]
    if not at_once:
        rig.asked[0](failure)
    assert [client.result for client in clients] == [result] * 2
    assert clients[0].asked.upstream_fields == clients[0].asked.variant_identity == b""
    assert rig.failed == [failure] * 2
    before = len(rig.asked)
    rig.request()
    assert len(rig.asked) == before + 1


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_auth, "REMEMBERED", 3)
    rig = Rig(KEPT)
    for number in range(5):
        rig.request(b"/%d" % number)
    rig.request(b"/4")
    rig.request(b"/2")
    assert len(rig.asked) == 5
    rig.request(b"/1")
    assert len(rig.asked) == 6
    large = Rig(Verdict(Response(403, [], b"x" * (forward_auth.LARGEST + 1)), seconds=10.0))
    large.request()
    large.request()
    assert len(large.asked) == 2


def test_responses_depend_on_the_identity_that_the_service_received() -> None:
    rig = Rig(KEPT)
    told, other = rig.request().asked, Rig(Verdict(seconds=1.0)).request().asked
    assert len(told.variant_identity) == 16
    assert other.variant_identity == b""

"""Basic authentication: how often a password is verified, what is remembered, and how guesses are limited."""

from __future__ import annotations

import base64
from collections.abc import Callable

import bcrypt
import pytest

from passerelle.errors import Failure, Kind
from passerelle.http.htpasswd import Users, parse_hash
from passerelle.security.credentials.authentication import Authenticate, CredentialRejected
from passerelle.security.credentials.basic import BasicMethod, PasswordCheck, parse_credentials
from passerelle.security.credentials.login_throttle import AttemptLimit, LoginThrottle
from passerelle.security.guard import GuardedCall, RequestRefused
from passerelle.security.identity import Identity
from passerelle.security.ratelimit.gcra import SECOND, BucketTable, Rate
from tests.security.ratelimit.test_gcra import asked

HASH = parse_hash(bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode())
ADDRESS = b"203.0.113.5"


def basic(name: str, password: str) -> bytes:
    return b"Basic " + base64.b64encode(f"{name}:{password}".encode())


class Worker:
    """A method whose verifications run when the test lets them."""

    def __init__(self, attempts: int = 3) -> None:
        self.seconds = 1000.0
        self.full = False
        self.waiting: list[tuple[Callable[[], bool], Callable[[bool | None], None]]] = []
        self.verified = 0
        limits = [AttemptLimit(Rate(1, 60 * SECOND, number), BucketTable()) for number in (attempts, 2 * attempts)]
        throttle = LoginThrottle(*limits, clock=lambda: int(self.seconds * SECOND))
        users = Users({"ada": HASH})
        self.method = BasicMethod(
            users, self.verify, throttle, lambda address: address, "shop", 100.0, lambda: self.seconds
        )

    def verify(self, verify: Callable[[], bool], done: Callable[[bool | None], None]) -> None:
        if self.full:
            raise Failure(Kind.UNVERIFIABLE, "too many")
        self.waiting.append((verify, done))

    def run(self, *, abandoned: bool = False) -> None:
        waiting, self.waiting = self.waiting, []
        for verify, done in waiting:
            self.verified += 1
            done(None if abandoned else verify())

    def identify(self, value: bytes, address: bytes = ADDRESS) -> Identity:
        """Identify a request, with the verification that it may need."""
        call = asked(address, (b"authorization", value))
        found = self.method.identify(call)
        if isinstance(found, PasswordCheck):
            self.run()
            found = self.method.identify(call)
        assert isinstance(found, Identity)
        return found


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_a_password_is_verified_once_in_the_time_that_it_is_remembered(worker: Worker) -> None:
    for _ in range(5):
        assert worker.identify(basic("ada", "right")).consumer == "ada"
    assert worker.verified == 1
    worker.seconds += 101
    assert worker.identify(basic("ada", "right")).method == "basic"
    assert worker.verified == 2


def test_requests_with_the_same_credentials_wait_for_one_verification(worker: Worker) -> None:
    calls = [asked(ADDRESS, (b"authorization", basic("ada", "right"))) for _ in range(20)]
    pending = [worker.method.identify(call) for call in calls]
    assert len({id(each) for each in pending}) == 1 and len(worker.waiting) == 1
    resumed: list[GuardedCall] = []
    for call, each in zip(calls, pending, strict=True):
        assert isinstance(each, PasswordCheck)
        each.add_done_callback(lambda call=call: resumed.append(call))
    worker.run()
    assert resumed == calls
    assert all(isinstance(worker.method.identify(call), Identity) for call in calls)


def test_a_wrong_password_that_is_repeated_uses_up_no_attempts(worker: Worker) -> None:
    for _ in range(50):
        with pytest.raises(CredentialRejected, match="the wrong password for 'ada', or no such user"):
            worker.identify(basic("ada", "old"))
    assert worker.verified == 1
    assert worker.identify(basic("ada", "right")).consumer == "ada"


def test_guesses_for_a_name_are_limited_and_a_known_password_goes_on(worker: Worker) -> None:
    worker.identify(basic("ada", "right"))
    for number in range(3):
        with pytest.raises(CredentialRejected):
            worker.identify(basic("ada", f"guess {number}"), b"192.0.2.%d" % number)
    with pytest.raises(RequestRefused) as refused:
        worker.identify(basic("ada", "another guess"))
    assert refused.value.status == 429 and dict(refused.value.fields)[b"Retry-After"] == b"60"
    assert worker.verified == 4  # the refused guess cost nothing
    assert worker.identify(basic("ada", "right")).consumer == "ada"
    worker.seconds += 60
    with pytest.raises(CredentialRejected):
        worker.identify(basic("ada", "one more"))


def test_guesses_from_an_address_are_limited_whatever_the_name(worker: Worker) -> None:
    for number in range(6):
        with pytest.raises(CredentialRejected):
            worker.identify(basic(f"user{number}", "x"))
    with pytest.raises(RequestRefused):
        worker.identify(basic("ada", "right"))
    assert worker.identify(basic("ada", "right"), b"192.0.2.1").consumer == "ada"


def test_right_passwords_use_up_no_attempts(worker: Worker) -> None:
    for _ in range(10):
        worker.seconds += 101
        worker.identify(basic("ada", "right"))
    assert worker.verified == 10


def test_too_many_verifications_are_refused_and_not_counted(worker: Worker) -> None:
    worker.full = True
    for _ in range(20):
        with pytest.raises(Failure) as failed:
            worker.identify(basic("ada", "right"))
        assert failed.value.kind is Kind.UNVERIFIABLE
    worker.full = False
    assert worker.identify(basic("ada", "right")).consumer == "ada"


def test_an_abandoned_verification_is_no_verdict(worker: Worker) -> None:
    call = asked(ADDRESS, (b"authorization", basic("ada", "right")))
    assert isinstance(worker.method.identify(call), PasswordCheck)
    worker.run(abandoned=True)
    with pytest.raises(Failure) as failed:
        worker.method.identify(call)
    assert failed.value.kind is Kind.UNVERIFIABLE


def test_a_removed_user_is_refused_and_a_verification_of_before_is_not_remembered(worker: Worker) -> None:
    worker.identify(basic("ada", "right"))
    late = asked(ADDRESS, (b"authorization", basic("ada", "wrong")))
    assert isinstance(worker.method.identify(late), PasswordCheck)
    worker.method.use(Users({}))
    worker.run()
    with pytest.raises(CredentialRejected):
        worker.method.identify(late)
    with pytest.raises(CredentialRejected):
        worker.identify(basic("ada", "right"))


@pytest.mark.parametrize(
    "value",
    [
        b"Basic",
        b"Basic !!!",
        b"Basic " + base64.b64encode(b"no colon"),
        b"Basic " + base64.b64encode(b":no name"),
        b"Basic " + base64.b64encode(b"ada:\xff"),
        b"Basic " + base64.b64encode(b"ada:a\0b"),
        b"Basic " + base64.b64encode(b"ada:" + b"x" * 1025),
        b"Basic " + b"A" * 100_000,
        b"Basic YWRhOg==YWRhOg==",
    ],
)
def test_malformed_credentials_are_refused_without_a_verification(worker: Worker, value: bytes) -> None:
    if value == b"Basic":
        assert worker.method.identify(asked(ADDRESS, (b"authorization", value))) is None
        return
    with pytest.raises(CredentialRejected, match="malformed user name or password"):
        worker.identify(value)
    assert not worker.verified


def test_the_credentials_are_utf_8() -> None:
    assert parse_credentials(b"bAsIc " + base64.b64encode("Ren\u00e9:a:b \u20ac".encode())) == (
        "Ren\u00e9",
        "a:b \u20ac",
    )


def test_a_consumer_is_named_in_one_form_whatever_the_client_sends(worker: Worker) -> None:
    worker.method._users = Users({"Jos\u00e9": HASH})
    consumers = {worker.identify(basic(name, "right")).consumer for name in ("Jos\u00e9", "Jose\u0301")}
    assert consumers == {"Jos\u00e9"}


def test_a_name_that_is_too_long_for_a_field_is_refused_at_once(worker: Worker) -> None:
    worker.method._users = Users({"\u20ac" * 300: HASH})
    with pytest.raises(CredentialRejected, match="would be longer"):
        worker.identify(basic("\u20ac" * 300, "right"))
    assert worker.verified == 0


def test_other_credentials_are_not_looked_at(worker: Worker) -> None:
    assert worker.method.identify(asked(ADDRESS)) is None
    assert worker.method.identify(asked(ADDRESS, (b"authorization", b"Bearer x"))) is None
    with pytest.raises(CredentialRejected):
        worker.method.identify(asked(ADDRESS, (b"authorization", basic("ada", "right")), (b"authorization", b"x")))


def test_the_challenge_names_realm_and_charset(worker: Worker) -> None:
    with pytest.raises(RequestRefused) as refused:
        Authenticate([worker.method])(asked(ADDRESS))
    assert refused.value.fields == [(b"WWW-Authenticate", b'Basic realm="shop", charset="UTF-8"')]

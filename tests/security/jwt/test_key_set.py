"""Key set that rotates, is fetched once for all waiters, and is kept when its issuer fails."""

from __future__ import annotations

import json

import pytest

from passerelle.errors import Failure, Kind
from passerelle.security.credentials.authentication import CredentialRejected
from passerelle.security.identity import Identity
from passerelle.security.jwt.key_set import FetchCallback, KeySet
from passerelle.security.jwt.verifier import JwtMethod, JwtRules
from tests.security.jwt.test_jose import ECKey, rsa_key, sign
from tests.security.ratelimit.test_gcra import asked

K1, K2 = ECKey.generate_key("P-256"), ECKey.generate_key("P-256")
NOW = 1_800_000_000


class Issuer:
    """Key set whose fetches the test completes, and a clock."""

    def __init__(self, **keys: ECKey) -> None:
        self.now = 1000.0
        self.keys = keys
        self.fetches: list[FetchCallback] = []
        self.failures: list[str] = []
        self.set = KeySet(
            self.fetches.append, lambda: self.now, cooldown=30.0, refresh=3600.0, failed=self.failures.append
        )
        self.method = JwtMethod(JwtRules(frozenset({"ES256"})), self.set, lambda: NOW, lambda: self.now)

    def document(self) -> bytes:
        return json.dumps(
            {"keys": [{**key.as_dict(private=False), "kid": kid} for kid, key in self.keys.items()]}
        ).encode()

    def answer(self, result: bytes | Exception | None = None) -> None:
        self.fetches.pop()(self.document() if result is None else result)
        assert not self.fetches

    def load(self) -> Issuer:
        self.set.start()
        self.answer()
        return self

    def ask(self, key: ECKey, kid: str | None):
        return self.method.identify(bearer(token(key, kid)))


def token(key: ECKey, kid: str | None, **claims: object) -> str:
    header = {"alg": "ES256"} if kid is None else {"alg": "ES256", "kid": kid}
    return sign(key, header, json.dumps({"sub": "alice", "exp": NOW + 60, **claims}).encode())


def bearer(text: str):
    return asked(b"", (b"authorization", b"Bearer " + text.encode()))


def test_a_rotation_is_seen_at_once_by_one_fetch_for_all() -> None:
    issuer = Issuer(k1=K1).load()
    assert isinstance(issuer.ask(K1, "k1"), Identity)
    issuer.keys = {"k2": K2}
    issuer.now += 60
    resumed: list[object] = []
    for _ in range(20):
        wait = issuer.ask(K2, "k2")
        assert wait is issuer.set
        wait.add_done_callback(lambda: resumed.append(issuer.ask(K2, "k2")))
    assert len(issuer.fetches) == 1
    issuer.answer()
    assert len(resumed) == 20 and all(isinstance(found, Identity) for found in resumed)


def test_unknown_kids_cost_one_fetch_a_cooldown() -> None:
    issuer = Issuer(k1=K1).load()
    fetched, reasons = 0, set()
    for number in range(200):
        issuer.now += 0.05  # 200 tokens in 10 s, then 90 s more
        if number > 190:
            issuer.now += 10
        try:
            wait = issuer.ask(K2, f"random-{number}")
        except CredentialRejected as reason:
            reasons.add(str(reason))
            continue
        assert wait is issuer.set
        fetched += 1
        issuer.answer()
    assert reasons == {"token signed with an unknown key"}
    assert fetched == 3  # after 30, 60 and 90 s, none of them in the first 10
    assert isinstance(issuer.ask(K1, "k1"), Identity)


@pytest.mark.parametrize(
    "result", [OSError("down"), b"<html>", b'{"keys":[]}', b"", TimeoutError("stalled"), b'{"keys":[{"kty":"oct"}]}']
)
def test_the_last_good_set_is_kept(result: bytes | Exception) -> None:
    issuer = Issuer(k1=K1).load()
    issuer.now += 10_000  # long after its refresh time
    issuer.set.keep_fresh()
    assert isinstance(issuer.ask(K1, "k1"), Identity)  # no request waits for a set that is merely old
    assert len(issuer.fetches) == 1
    issuer.answer(result)
    assert len(issuer.failures) == 1
    other = bearer(token(K1, "k1", sub="bob"))
    assert isinstance(issuer.method.identify(other), Identity)
    issuer.set.keep_fresh()
    assert not issuer.fetches  # not again before the cooldown
    with pytest.raises(CredentialRejected):
        issuer.ask(K2, "k2")


def test_without_any_set_tokens_are_refused_but_not_called_invalid() -> None:
    issuer = Issuer(k1=K1)
    assert issuer.ask(K1, "k1") is issuer.set
    issuer.answer(OSError("down"))
    with pytest.raises(Failure) as failed:
        issuer.ask(K1, "k1")
    assert failed.value.kind is Kind.UNVERIFIABLE
    issuer.now += 30
    assert issuer.ask(K1, "k1") is issuer.set
    issuer.answer()
    assert isinstance(issuer.ask(K1, "k1"), Identity)


def test_tokens_without_kid_try_every_key() -> None:
    one, two = Issuer(k1=K1).load(), Issuer(k1=K1, k2=K2).load()
    assert isinstance(one.ask(K1, None), Identity)
    assert isinstance(two.ask(K1, None), Identity)
    assert isinstance(two.ask(K2, None), Identity)
    with pytest.raises(CredentialRejected, match="invalid signature"):
        one.ask(K2, None)


def test_a_kid_binds_its_token_to_its_key() -> None:
    issuer = Issuer(k1=K1, k2=K2).load()
    with pytest.raises(CredentialRejected):
        issuer.ask(K2, "k1")


def test_the_same_kid_with_new_key_material() -> None:
    issuer = Issuer(k1=K1).load()
    assert isinstance(issuer.ask(K1, "k1"), Identity)
    issuer.keys = {"k1": K2}
    issuer.now += 60
    assert issuer.ask(K2, "k1") is issuer.set
    issuer.answer()
    assert isinstance(issuer.ask(K2, "k1"), Identity)
    with pytest.raises(CredentialRejected):  # a token signed with the old key is no longer cached
        issuer.ask(K1, "k1")


def test_a_key_that_is_added_takes_nothing_back() -> None:
    issuer = Issuer(k1=K1).load()
    version = issuer.set.version
    issuer.keys["k2"] = K2
    issuer.now += 4000
    issuer.set.keep_fresh()
    issuer.answer()
    assert issuer.set.version == version


def test_a_set_with_other_kinds_of_keys() -> None:
    issuer = Issuer(k1=K1)
    issuer.set.start()
    rsa = {**rsa_key().as_dict(private=False), "kid": "r"}
    issuer.answer(json.dumps({"keys": [rsa, {**K1.as_dict(private=False), "kid": "k1"}]}).encode())
    assert isinstance(issuer.ask(K1, "k1"), Identity)
    with pytest.raises(CredentialRejected, match="unknown key"):
        issuer.ask(K1, "r")

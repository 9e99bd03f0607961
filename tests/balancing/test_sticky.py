"""Sticky sessions: a token leads to the same instance while that is up, and is of no other use."""

import pytest

from passerelle.balancing.group import Group
from passerelle.balancing.instance import Instance, Status, acquire, set_status
from passerelle.balancing.policies import RoundRobin
from passerelle.balancing.sticky import Sticky, read_cookie, set_cookie


def make(secret: bytes = b"user|secret") -> tuple[Sticky, list[Instance]]:
    members = [Instance(f"i{n}", f"10.0.0.{n}:80") for n in range(4)]
    return Sticky(RoundRobin(members, random=lambda: 0.0), secret), members


def test_a_token_leads_to_the_same_instance() -> None:
    node, members = make()
    for instance in members:
        assert {node.pick(key=node.token(instance)) for _ in range(5)} == {instance}


def test_an_instance_is_known_by_its_place_not_by_its_name_or_order() -> None:
    node, members = make()
    other = Sticky(
        RoundRobin([Instance(f"x{n}", one.address) for n, one in enumerate(reversed(members))]), b"user|secret"
    )
    for instance in members:
        chosen = other.pick(key=node.token(instance))
        assert chosen is not None and chosen.address == instance.address


def test_an_instance_that_replaces_another_gets_its_clients() -> None:
    old = Instance("u-1", "127.0.0.1:8001", place="u/1", status=Status.DRAINING)
    new = Instance("u-3", "127.0.0.1:8003", place="u/1")
    for members in ([old, new], [new, old]):
        node = Sticky(RoundRobin([*members, Instance("u-2", "127.0.0.1:8002", place="u/2")]), b"secret")
        assert {node.pick(key=node.token(old)) for _ in range(4)} == {new}


@pytest.mark.parametrize("status", [Status.DOWN, Status.EJECTED, Status.DRAINING])
def test_another_instance_is_picked_when_it_is_not_up(status: Status) -> None:
    node, members = make()
    token = node.token(members[2])
    set_status(members[2], status)
    assert node.pick(key=token) in {members[0], members[1], members[3]}
    set_status(members[2], Status.UP)
    assert node.pick(key=token) is members[2]
    assert node.pick((members[2],), token) is not members[2]


@pytest.mark.parametrize("token", [b"", b"i2", b"10.0.0.2:80", b"\xff\x00", b"0" * 22, b"a" * 100_000])
def test_a_forged_token_is_ignored(token: bytes) -> None:
    node, members = make()
    assert [node.pick(key=token) for _ in range(4)] == members


def test_tokens_reveal_nothing_and_are_valid_for_one_service() -> None:
    node, members = make()
    other, _ = make(b"product|secret")
    tokens = {node.token(instance) for instance in members}
    assert len(tokens) == 4
    assert all(len(token) == 22 and int(token, 16) >= 0 for token in tokens)
    assert tokens.isdisjoint(other.token(instance) for instance in members)
    # equal in another worker, and after a restart
    assert make()[0].token(members[0]) == node.token(members[0])


def test_a_new_list_of_members_is_used_at_once() -> None:
    members = [Instance("a"), Instance("b")]
    inner = RoundRobin(members[:1])
    node = Sticky(inner, b"s")
    root = Group([(node, 1.0)])
    token = node.token(members[1])
    assert node.pick(key=token) is members[0]
    inner.replace(members)
    assert node.pick(key=token) is members[1]
    acquire(members[1])
    assert (root.up, node.size, node.status, node.members) == (2, 2, Status.UP, tuple(members))


@pytest.mark.parametrize("secret", [b"", b"x" * 65])
def test_secrets_have_a_length(secret: bytes) -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        Sticky(RoundRobin(), secret)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], None),
        ([b"a=1; stick=abc; b=2"], b"abc"),
        ([b"a=1", b"stick=abc"], b"abc"),
        ([b"stick=abc;stick=def"], b"abc"),
        ([b"xstick=no; stick"], None),
        ([b"stick="], b""),
        ([b" stick=a=b "], b"a=b"),
        ([b";;=;"], None),
    ],
)
def test_read_cookie(values: list[bytes], expected: bytes | None) -> None:
    assert read_cookie(values, b"stick") == expected


def test_set_cookie() -> None:
    assert set_cookie(b"s", b"abc", secure=False) == b"s=abc; Path=/; HttpOnly; SameSite=Lax"
    assert set_cookie(b"s", b"abc", secure=True, max_age=60) == (
        b"s=abc; Path=/; HttpOnly; SameSite=Lax; Max-Age=60; Secure"
    )

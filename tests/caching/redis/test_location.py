"""The URL of a Redis, from the configuration to the client."""

from __future__ import annotations

import pytest

from passerelle.caching.redis.location import RedisLocation, locate
from passerelle.config.models.redis import Redis, parse_redis


def located(written: str) -> RedisLocation:
    """Locate what the configuration makes of a URL."""
    found = parse_redis(written)
    assert isinstance(found, Redis)
    return locate(found.url)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("redis://localhost", RedisLocation((("localhost", 6379),), 0, False)),
        ("redis://localhost/", RedisLocation((("localhost", 6379),), 0, False)),
        ("rediss://10.0.0.1:6380/3", RedisLocation((("10.0.0.1", 6380),), 3, True)),
        ("redis://[::1]", RedisLocation((("::1", 6379),), 0, False)),
        ("redis://[::1]:7000/12", RedisLocation((("::1", 7000),), 12, False)),
        ("redis://:s%40%3A%2Fcret@h", RedisLocation((("h", 6379),), 0, False, None, "s@:/cret")),
        ("redis://me:s:e@cret@h/1", RedisLocation((("h", 6379),), 1, False, "me", "s:e@cret")),
        ("redis+sentinel://h/shop", RedisLocation((("h", 26379),), 0, False, master="shop")),
        (
            "rediss+sentinel://u:p@a:1,b,[::1]:3/shop.main-1/2",
            RedisLocation((("a", 1), ("b", 26379), ("::1", 3)), 2, True, "u", "p", "shop.main-1"),
        ),
    ],
)
def test_parts_of_a_url(written: str, expected: RedisLocation) -> None:
    assert located(written) == expected


def test_neither_the_label_nor_the_representation_has_the_password() -> None:
    written = "redis+sentinel://user:secret@a:1,[::1]:3/shop"
    location, found = located(written), parse_redis(written)
    assert location.label == "a:1,[::1]:3" == getattr(found, "where", "")
    assert "secret" not in f"{location} {found} {found!r}"


def test_a_location_without_a_port_or_a_database_has_the_defaults() -> None:
    # Benchmarks and tests pass URLs that no configuration has completed.
    assert locate("redis://h") == locate("redis://h:6379/0")
    assert locate("redis://[::1]/1").nodes == (("::1", 6379),)


@pytest.mark.parametrize("written", ["off", False])
def test_off_is_no_redis(written: object) -> None:
    assert parse_redis(written) is None


def test_names_in_certificates_are_verified() -> None:
    assert locate("rediss://h").options["ssl_check_hostname"] is True
    assert "ssl_check_hostname" not in locate("redis://h").options

"""Durations, sizes and addresses."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.config.models.addresses import Address, parse_listen, parse_url, split_address
from passerelle.config.models.units import (
    BYTES,
    SECONDS,
    duration_text,
    parse_duration,
    parse_limit,
    parse_size,
    size_text,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("3s", 3.0),
        ("1.5m", 90.0),
        ("1h", 3600.0),
        ("75 s", 75.0),
        ("0.5ms", 0.0005),
        ("168h", 604800.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "found", [30, 1.5, True, None, "", "s", "3", "3S", "3sec", "-3s", "0s", "169h", "1m30s", "٣s", [], "1e3s"]
)
def test_invalid_durations_are_refused(found: object) -> None:
    with pytest.raises(ValueError, match="found "):
        parse_duration(found)


@pytest.mark.parametrize(
    ("text", "octets"),
    [("0B", 0), ("512B", 512), ("1KB", 1000), ("1KiB", 1024), ("1.5MiB", 1572864), ("10 MB", 10**7), ("2GiB", 2**31)],
)
def test_sizes(text: str, octets: int) -> None:
    assert parse_size(text) == octets
    assert parse_limit(text) == octets


@pytest.mark.parametrize("found", [30, True, None, "", "B", "3", "3k", "10mib", "10Mb", "-1B", "1TiB", {}])
def test_invalid_sizes_are_refused(found: object) -> None:
    for parse in (parse_size, parse_limit):
        with pytest.raises(ValueError, match="found "):
            parse(found)


def test_unlimited_is_a_limit_but_not_a_size() -> None:
    assert parse_limit("unlimited") == "unlimited"
    with pytest.raises(ValueError, match="found 'unlimited'"):
        parse_size("unlimited")


@given(st.integers(1, 10**6), st.sampled_from(sorted(SECONDS)))
def test_a_duration_survives_a_round_trip(number: int, unit: str) -> None:
    seconds = number * SECONDS[unit]
    if seconds <= 86400 * 7:
        assert parse_duration(duration_text(seconds)) == pytest.approx(seconds, rel=1e-5)


@given(st.integers(0, 10**15))
def test_a_size_survives_a_round_trip(octets: int) -> None:
    assert parse_size(size_text(octets)) == octets


@given(st.integers(0, 1000), st.sampled_from(sorted(BYTES)))
def test_sizes_are_exact(number: int, unit: str) -> None:
    assert parse_size(f"{number}{unit}") == number * BYTES[unit]


def test_no_limit_is_unlimited() -> None:
    assert size_text(None) == "unlimited"


@given(
    st.ip_addresses(v=4).map(str)
    | st.ip_addresses(v=6).map(str)
    | st.from_regex(r"[a-z][a-z0-9]{0,8}(\.[a-z][a-z0-9]{0,8}){0,2}", fullmatch=True),
    st.integers(0, 65535),
)
def test_addresses_survive_a_round_trip(host: str, port: int) -> None:
    address = Address(host=host, port=port)
    assert parse_listen(str(address)) == address
    if ":" in host:
        assert str(address).startswith("[")
        assert ipaddress.IPv6Address(host)


@given(st.text(max_size=20))
def test_any_text_is_an_address_or_one_error(text: str) -> None:
    for parse in (parse_listen, parse_url, lambda found: split_address(found, "x", default_port=80)):
        try:
            result: object = parse(text)
        except ValueError as error:
            result = str(error)
        if isinstance(result, Address):
            assert 0 <= result.port <= 65535
        else:
            assert str(result).startswith("found ")


def test_an_address_is_accepted_as_it_is() -> None:
    address = Address(host="a", port=1)
    assert parse_listen(address) is address
    assert parse_url(address) is address


@pytest.mark.parametrize("url", ["http://a:1", "https://a:1", "dns+http://a:1", "dns+http://_http._tcp.a"])
def test_a_url_survives_a_round_trip(url: str) -> None:
    assert parse_url(url).url == url

"""DNS discovery and target lists."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from passerelle.config import load_text
from passerelle.config.models.addresses import Lookup
from passerelle.config.models.discovery import Dns
from passerelle.discovery import catalog
from passerelle.discovery import file as target_file
from passerelle.discovery.dns import Resolver
from passerelle.discovery.types import DiscoveryFailed, FoundInstance
from passerelle.system.ports import join
from passerelle.upstream.members import InstanceSpec
from tests.support.names import Names


@pytest.fixture
def names() -> Iterator[Names]:
    server = Names(ttl=30)
    yield server
    server.close()


def resolver(names: Names, target: Lookup, timeout: float = 20.0) -> Resolver:
    return Resolver(target, Dns.model_validate({"server": names.server, "timeout": f"{timeout * 1000:g}ms"}))


SHOP = Lookup(host="shop.test", port=80)
SRV = Lookup(host="_http._tcp.shop.test", port=0, srv=True)


def test_addresses_of_both_families(names: Names) -> None:
    names.records = {("shop.test", "A"): ["10.0.0.2", "10.0.0.1"], ("shop.test", "AAAA"): ["fd00::1"]}
    found, ttl = asyncio.run(resolver(names, SHOP).look_up())
    assert found == [FoundInstance("10.0.0.1", 80), FoundInstance("10.0.0.2", 80), FoundInstance("fd00::1", 80)]
    assert ttl == 30


def test_services_have_ports_weights_and_priorities(names: Names) -> None:
    names.records = {
        (SRV.host, "SRV"): ["1 3 5001 a.test.", "1 0 5002 b.test.", "2 9 5003 c.test."],
        ("a.test", "A"): ["10.0.0.1"],
        ("b.test", "A"): ["10.0.0.2"],
        ("c.test", "A"): ["10.0.0.3"],
    }
    looking = resolver(names, SRV)
    assert sorted(asyncio.run(looking.look_up())[0]) == [
        FoundInstance("10.0.0.1", 5001, 3.0),
        FoundInstance("10.0.0.2", 5002, 1.0),
        FoundInstance("10.0.0.3", 5003, 9.0, tier=1),
    ]
    names.records = {(SRV.host, "SRV"): ["2 9 5003 c.test."], ("c.test", "A"): ["10.0.0.3"]}
    assert asyncio.run(looking.look_up())[0] == [FoundInstance("10.0.0.3", 5003, 9.0)]


def test_no_service_at_this_name(names: Names) -> None:
    names.records = {(SRV.host, "SRV"): ["0 0 0 ."]}
    with pytest.raises(DiscoveryFailed, match="has no SRV records"):
        asyncio.run(resolver(names, SRV).look_up())


@pytest.mark.parametrize("target", [SHOP, SRV])
def test_an_unknown_name(names: Names, target: Lookup) -> None:
    with pytest.raises(DiscoveryFailed, match=f"{target.host} has no (A|SRV) records"):
        asyncio.run(resolver(names, target).look_up())


def test_a_server_that_fails_takes_nothing_away(names: Names) -> None:
    names.records = {("shop.test", "A"): ["10.0.0.1"]}
    looking = resolver(names, SHOP)
    assert asyncio.run(looking.look_up()) == ([FoundInstance("10.0.0.1", 80)], 30.0)
    names.broken = True
    assert asyncio.run(looking.look_up()) == ([FoundInstance("10.0.0.1", 80)], 0.0)


def test_a_silent_server_is_given_up(names: Names) -> None:
    names.silent = True
    with pytest.raises(DiscoveryFailed, match=r"no response within 0\.1 s"):
        asyncio.run(resolver(names, SHOP, 0.1).look_up())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.yaml", "- http://a:1\n- {url: 'http://b:2', weight: 3}\n"),
        ("t.yaml", "targets:\n- http://a:1\n- url: http://b:2\n  weight: 3\n"),
        ("t.json", '["http://a:1", {"url": "http://b:2", "weight": 3}]'),
        ("t.txt", "# ours\nhttp://a:1\n\nhttp://b:2 3  # strong\n"),
    ],
)
def test_lists(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    targets = target_file.read(tmp_path / name)
    assert [(str(t.url), t.weight) for t in targets] == [("a:1", 1), ("b:2", 3)]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("t.yaml", b"- http://a:1\n- ftp://b:2\n", ":2: url: found scheme 'ftp'"),
        (
            "t.yaml",
            b"- http://a:1\n- {url: 'http://b:2', wait: 3}\n",
            ":2: wait: unknown key; did you mean weight? Allowed: url, file, weight",
        ),
        ("t.yaml", b"- {host: b, port: 2}\n", ':1: host: unknown key; write url: "http://b:2"'),
        ("t.yaml", b"- http://a:1\n- {url: 'http://b:2', url: x}\n", ":2: url: found twice"),
        ("t.yaml", b"- http://a:1\n- [\n", ":3: found the end where a value is expected"),
        ("t.yaml", b"a: 1\n", ":1: found no list"),
        ("t.yaml", b"- file: other.yaml\n", ":1: a target list allows http://host:port only"),
        ("t.txt", b"http://a:1\ndns+http://b:2\n", ":2: a target list allows http://host:port only"),
        ("t.txt", b"http://a:1\nhttps://b:2\n", ":2: a target list allows http://host:port only"),
        (
            "t.txt",
            b"unix:/run/a.sock\nhttp://b:2/v1\n",
            ":2: found http://b:2/v1 with a path; a target list allows",
        ),
        ("t.txt", b"http://a:1 1 1\n", ":1: found 3 words"),
        ("t.txt", b"http://a:1\nhttp://b:2 0\n", ":2: weight: found 0"),
        ("t.txt", b"http://a:1\n\xff\n", ":2: octet 0xFF is not UTF-8"),
        ("t.txt", b"# none\n", ": found no targets"),
        ("t.yaml", b"", ": found no targets"),
        ("t.txt", b"#" * (2**20 + 1), ": larger than 1048576 bytes"),
    ],
)
def test_an_invalid_list_is_reported_with_its_place(tmp_path: Path, name: str, content: bytes, line: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(target_file.InvalidTargetFile) as refused:
        target_file.read(path)
    assert str(refused.value).startswith(f"{path}{line}")


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    assert target_file.file_stamp(tmp_path / "none") is None
    with pytest.raises(target_file.InvalidTargetFile, match="no such file"):
        target_file.read(tmp_path / "none")


def test_a_symbolic_link_that_is_swapped_is_a_change(tmp_path: Path) -> None:
    """Kubernetes replaces a mounted ConfigMap like this: it changes the link to a folder."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "t").write_text("http://a:1")
    (tmp_path / "data").symlink_to("one")
    before = target_file.file_stamp(tmp_path / "data" / "t")
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(tmp_path / "data")
    assert target_file.file_stamp(tmp_path / "data" / "t") != before


def test_the_catalog_keeps_the_last_good_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "FILE_INTERVAL", 0.01)
    path = tmp_path / "t.txt"
    path.write_text("http://10.0.0.2:1 2\nhttp://10.0.0.1:1\n")
    text = "services: {s: {targets: ['http://10.0.0.1:1', {file: t.txt}]}}\nroutes: [{path: /, service: s}]"
    config = load_text(text, folder=tmp_path)

    async def run() -> None:
        said: list[str] = []
        changed: list[str] = []
        it = catalog.Catalog(changed.append, said.append)
        await it.prepare(config)
        it.adopt(config)
        first = [InstanceSpec("s-1", "10.0.0.1", 1), InstanceSpec("s-10.0.0.2:1", "10.0.0.2", 1, 2.0)]
        assert it.specs("s", config) == first
        path.write_text("http://10.0.0.3:1\nnonsense\n")
        async with asyncio.timeout(20):
            while not said:
                await asyncio.sleep(0.01)
        assert said[0].startswith(f"{path}:2: url: found 'nonsense'") and said[0].endswith("keeping its last 2 targets")
        assert it.specs("s", config) == first and changed == []
        path.write_text("http://10.0.0.3:1\n")
        async with asyncio.timeout(20):
            while not changed:
                await asyncio.sleep(0.01)
        assert changed == ["s"]
        assert it.specs("s", config) == [first[0], InstanceSpec("s-10.0.0.3:1", "10.0.0.3", 1)]
        it.stop()

    asyncio.run(run())


def test_the_catalog_states_where_a_target_comes_from(tmp_path: Path, names: Names) -> None:
    names.records = {("shop.test", "A"): ["10.0.0.2"]}
    path = tmp_path / "t.txt"
    path.write_text("http://10.0.0.3:1\n")
    text = (
        f"dns: {{server: '{names.server}', timeout: 20s}}\n"
        "services: {s: {zones: {a: {targets: ['http://10.0.0.1:1', 'dns+http://shop.test:1']},"
        " b: {targets: [{file: t.txt}]}}}}\nroutes: [{path: /, service: s}]"
    )
    config = load_text(text, folder=tmp_path)

    async def run() -> None:
        it = catalog.Catalog(lambda name: None, lambda line: None)
        it.adopt(config)
        async with asyncio.timeout(20):
            while len(it.specs("s", config)) < 3:
                await it.prepare(config)
                await asyncio.sleep(0.01)
        assert it.found_by("s", ("10.0.0.2", 1, "a")) == "dns+http://shop.test:1"
        assert it.found_by("s", ("10.0.0.3", 1, "b")) == str(path)
        for place in (("10.0.0.1", 1, "a"), ("10.0.0.2", 1, "b"), ("10.0.0.2", 2, "a"), ("10.0.0.9", 1, "a")):
            assert it.found_by("s", place) == ""
        it.stop()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("listen", "own"),
    [
        ("127.0.0.1:8080", ["127.0.0.1:8080"]),
        ("0.0.0.0:8080", ["127.0.0.1:8080", "127.0.0.2:8080"]),
        ("[::]:8080", ["127.0.0.1:8080", "[::1]:8080"]),
        ("127.0.0.1:9000", []),
    ],
)
def test_found_targets_at_the_gateway_s_own_address_are_left_out(tmp_path: Path, listen: str, own: list[str]) -> None:
    """192.0.2.1 is no address of any machine (RFC 5737)."""
    found = {"127.0.0.1:8080", "127.0.0.2:8080", "[::1]:8080", "192.0.2.1:8080"}
    (tmp_path / "t.txt").write_text("".join(f"http://{address}\n" for address in [*found, "127.0.0.1:1"]))
    config = load_text("services: {s: {targets: [{file: t.txt}]}}\nroutes: [{path: /, service: s}]", folder=tmp_path)

    async def run() -> None:
        lines: list[str] = []
        it = catalog.Catalog(lambda name: None, lines.append)
        it.exclude([listen])
        await it.prepare(config)
        it.adopt(config)
        for _ in range(2):
            kept = {join(spec.host, spec.port) for spec in it.specs("s", config)}
            assert not kept & set(own) and {"192.0.2.1:8080", "127.0.0.1:1"} <= kept
        reported = {line for address in own for line in lines if f"found {address}, where the gateway" in line}
        assert len(reported) == len(own) and len(set(lines)) == len(lines)
        it.stop()

    asyncio.run(run())

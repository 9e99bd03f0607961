"""Each installed peer does the work that is measured; passerelle's own configurations are valid."""

import json
import os
from pathlib import Path

import pytest

from benchmarks.peers import upstreams
from benchmarks.peers.base import Forwarder, Site
from benchmarks.peers.by_hand import Aiohttp, FastAPI
from benchmarks.peers.caddy import Caddy
from benchmarks.peers.envoy import Envoy
from benchmarks.peers.founding import FlaskGateway, Monolith
from benchmarks.peers.haproxy import HAProxy
from benchmarks.peers.nginx import Nginx, NginxTuned
from benchmarks.peers.passerelle import Passerelle
from benchmarks.peers.varnish import Varnish
from benchmarks.rig.core import Rig
from benchmarks.rig.server import RigError, fetch
from benchmarks.scenarios.base import Bench
from benchmarks.scenarios.crossing import ANSWER, start_memory
from benchmarks.scenarios.crossing_cache import READY, ShopMonolith, fill
from benchmarks.scenarios.hit import HEADERS
from benchmarks.scenarios.policy import SHARED, bearer, token
from passerelle.config import load
from tests.requirements import absent, needs

TWO_CPUS = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two CPUs are needed")
NEEDS = needs("wrk", "taskset", "nginx")


LONG = pytest.mark.long
OTHERS = (HAProxy(), Envoy(), Caddy(), Varnish())


@pytest.fixture(scope="module")
def rig():
    with Rig.on_this_machine() as rig:
        yield rig


@pytest.fixture(scope="module")
def addresses(rig):
    _, addresses = upstreams.start(rig)
    return addresses


def answer(rig, peer, kind, addresses, path):
    """Return the response of ``peer``, configured for ``kind``, to a request for ``path``."""
    if peer.missing():
        absent(f"{peer.name} is missing: {peer.missing()}")
    assert peer.version()
    site = Site(rig.subfolder(peer.name), rig.port(), addresses)
    command = getattr(peer, kind)(site)
    server = rig.start(peer.name, command.argv, site.port, site.folder, ready=path, env=command.env)
    status, body = fetch(site.port, path, {})
    rig.stop(server)
    assert status == 200
    return json.loads(body)


@TWO_CPUS
@NEEDS
@pytest.mark.parametrize(
    "peer", [Nginx(), *(pytest.param(each, marks=LONG) for each in OTHERS)], ids=lambda peer: peer.name
)
def test_forwarders_forward(peer, rig, addresses):
    assert answer(rig, peer, "forward", addresses, "/user/7") == json.loads(upstreams.USER)


@LONG
@TWO_CPUS
@NEEDS
@pytest.mark.parametrize(
    ("peer", "log"),
    [
        (Nginx(access_log=True), "access.log"),
        (HAProxy(access_log=True), "haproxy-log.log"),
        (Envoy(access_log=True), "access.log"),
    ],
    ids=lambda each: getattr(each, "name", ""),
)
def test_peers_log_every_request_when_both_sides_log(peer, log, rig, addresses):
    if peer.missing():
        absent(f"{peer.name} is missing: {peer.missing()}")
    site = Site(rig.subfolder(f"{peer.name}-log"), rig.port(), addresses)
    command = peer.forward(site)
    server = rig.start(f"{peer.name}-log", command.argv, site.port, site.folder, ready="/user/1", env=command.env)
    for number in range(5):
        fetch(site.port, f"/user/logged-{number}", {})
    rig.stop(server)
    text = (site.folder / log).read_text()
    assert [f"/user/logged-{number}" in text for number in range(5)] == [True] * 5


@LONG
@TWO_CPUS
@NEEDS
@pytest.mark.parametrize("peer", [Nginx(), Aiohttp(), FastAPI()], ids=lambda peer: peer.name)
def test_composers_compose(peer, rig, addresses):
    assert answer(rig, peer, "compose", addresses, "/api/7/8") == json.loads(upstreams.COMPOSED)


@LONG
@TWO_CPUS
@NEEDS
@pytest.mark.parametrize("peer", [Nginx(), NginxTuned(), HAProxy(), Envoy()], ids=lambda peer: peer.name)
def test_streamers_pass_on(peer, rig, addresses):
    assert answer(rig, peer, "stream", addresses, "/product/7") == json.loads(upstreams.PRODUCT)


@TWO_CPUS
@NEEDS
@pytest.mark.parametrize("peer", [Nginx(), pytest.param(Varnish(), marks=LONG), None], ids=["nginx", "varnish", "ours"])
def test_caches_respond_alone_after_the_first_request(peer, rig):
    bench = Bench(rig, 1, 1, frozenset(), print)
    peer = peer or bench.ours()
    if peer.missing():
        absent(f"{peer.name} is missing: {peer.missing()}")
    behind, addresses = upstreams.start(rig, kept=True)
    site = bench.site(peer.name, addresses)
    server = bench.start(peer.name, site, peer.cached(site, 64 << 20), "/user/7", upstreams.USER, HEADERS)
    rig.stop(behind)
    status, body = fetch(site.port, "/user/7", HEADERS)
    rig.stop(server)
    assert (status, json.loads(body)) == (200, json.loads(upstreams.USER))


@LONG
@TWO_CPUS
@NEEDS
@pytest.mark.parametrize("peer", [HAProxy(), Envoy(), None], ids=["haproxy", "envoy", "ours"])
def test_guards_admit_one_token_alone(peer, rig, addresses):
    bench = Bench(rig, 1, 1, frozenset(), print)
    peer = peer or bench.ours()
    if peer.missing():
        absent(f"{peer.name} is missing: {peer.missing()}")
    site = bench.site(peer.name, addresses)
    headers = bearer(token(SHARED))
    server = bench.start(peer.name, site, peer.policy(site, SHARED), "/user/7", upstreams.USER, headers)
    wrong = [bearer(each) for each in (token("x" * 40), token(SHARED, -3600.0), "none")]
    statuses = [fetch(site.port, "/user/7", each)[0] for each in wrong]
    rig.stop(server)
    assert statuses == [401, 401, 401]


@LONG
@TWO_CPUS
@NEEDS
def test_the_founding_design_answers_the_same_over_services_from_memory(rig):
    bench = Bench(rig, 1, 1, frozenset(), print)
    services = start_memory(bench)
    assert answer(rig, FlaskGateway(), "compose", services, "/api/1/1") == json.loads(ANSWER)
    assert answer(rig, Monolith(), "compose", (), "/api/1/1") == json.loads(ANSWER)


@TWO_CPUS
@NEEDS
def test_a_wrong_answer_is_not_measured(rig, addresses):
    bench = Bench(rig, 1, 1, frozenset(), print)
    site = bench.site("nginx", addresses)
    with pytest.raises(RigError, match="instead of"):
        bench.start("nginx", site, Nginx().forward(site), "/user/1", upstreams.PRODUCT)


@TWO_CPUS
@NEEDS
def test_peers_are_narrowed_by_name_and_missing_ones_are_reported(rig):
    class Absent(Nginx):
        def missing(self) -> str | None:
            return "nginx (apt-get install nginx)"

    class Present(HAProxy):
        def missing(self) -> str | None:
            return None

        def version(self) -> str:
            return "HAProxy 2"

    said: list[str] = []
    peers: list[Forwarder] = [Absent(), Present()]
    bench = Bench(rig, 3, 3, frozenset(), said.append)
    assert [peer.name for peer in bench.present(peers)] == ["haproxy"]
    assert said == ["missing: nginx: nginx (apt-get install nginx)"] and list(bench.missing) == ["nginx"]
    assert bench.versions == {"haproxy": "HAProxy 2"}
    narrowed = Bench(rig, 3, 3, frozenset({"nginx"}), said.append)
    assert narrowed.present([Present()]) == [] and narrowed.missing == {}


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path, 8080, ["127.0.0.1:9001", "127.0.0.1:9002"])


def configuration(command):
    assert command.argv[1] == "gateway"
    return load(Path(command.argv[2]))


@pytest.mark.parametrize("balance", ["round_robin", "weighted", "least_inflight", "p2c"])
def test_ours_is_given_valid_configurations_to_forward(site, balance):
    config = configuration(Passerelle(9900).forward(site, balance, "60s", 12_000))
    service = config.services["user"]
    assert service.balance.policy == balance and len(service.targets) == 2
    assert config.limits.connections == 12_000 and str(config.admin).endswith("9900")
    assert str(config.access_log) == str(site.folder / "access.log")
    assert configuration(Passerelle(9900, access_log=False).forward(site)).access_log != config.access_log


def test_ours_is_given_valid_configurations_for_all_else(site):
    composed = configuration(Passerelle(9900).compose(site)).routes[0]
    assert set(composed.compose) == {"user", "product"}
    assert configuration(Passerelle(9900).stream(site)).routes[0].path == "/{rest*}"
    assert len(configuration(Passerelle(9900).routes(site, 10)).routes) == 10


@LONG
@TWO_CPUS
@NEEDS
def test_the_shop_s_monolith_answers_out_of_its_filled_database_on_both_cpus(rig):
    peer = ShopMonolith()
    if peer.missing():
        absent(f"{peer.name} is missing: {peer.missing()}")
    env = fill(rig.subfolder("data"))
    site = Site(rig.subfolder(peer.name), rig.port(), ())
    command = peer.serve(site, env)
    server = rig.start(peer.name, command.argv, site.port, site.folder, ready=READY, both=True, env=command.env)
    assert os.sched_getaffinity(server.pid) == {rig.server_cpu, rig.load_cpu}
    assert json.loads(fetch(site.port, READY, {})[1]) == json.loads(ANSWER)
    assert fetch(site.port, "/api/10000/1000", {})[0] == 200
    rig.stop(server)

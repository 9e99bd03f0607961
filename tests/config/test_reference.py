"""docs/reference/configuration.md repeats the models, row by row."""

from __future__ import annotations

import re
import shlex
import typing
from pathlib import Path

import pytest

from passerelle.cli.main import main
from passerelle.config import load_text, rules
from passerelle.config.models import config as models
from passerelle.config.models.base import Model
from passerelle.config.models.units import Duration, Limit, Percent, Size
from passerelle.config.models.values import WholeNumber
from passerelle.config.problems import allowed_keys
from passerelle.config.reading import substitute, yaml_tree
from passerelle.config.schema import default_text
from passerelle.errors import Failure
from passerelle.routing.paths import MAX_SEGMENTS, canonical_path
from passerelle.routing.router import MAX_STEPS, Router, RouteRule

DOCS = Path(__file__).parents[2] / "docs" / "reference"
ROUTING = (DOCS / "routing.md").read_text("utf-8")
REFERENCE = (DOCS / "configuration.md").read_text("utf-8")
SECTIONS = {
    "Config": "The file",
    "Limits": "`limits`",
    "Service": "A service",
    "Target": "A target",
    "Zone": "A zone",
    "Balance": "`balance`",
    "Sticky": "`sticky`",
    "Eject": "`eject`",
    "Breaker": "`breaker`",
    "Retries": "`retries`",
    "Concurrency": "`concurrency`",
    "Hedge": "`hedge`",
    "Health": "`health`",
    "Route": "A route",
    "Part": "A part of a composition",
    "OnError": "`on_error`",
    "Cache": "Caching",
    "Certificate": "`certificates`",
    "Compress": "`compress`",
    "RouteCache": "Caching",
    "RateLimit": "`rate_limit`",
    "Keys": "`keys`",
    "Sessions": "`sessions`",
    "Login": "`login`",
    "Dns": "`dns`",
    "Jwt": "`jwt`",
    "Require": "`require`",
    "Clients": "`clients`",
    "ListenerTls": "`tls`",
    "ServiceTls": "`tls` of a service",
    "Cors": "`cors`",
    "ForwardAuth": "`forward_auth`",
    "IdentityToken": "`identity_token`",
    "RequestHeaders": "`request_headers` and `response_headers`",
    "ResponseHeaders": "`request_headers` and `response_headers`",
    "SecurityHeaders": "`security_headers`",
}
# What a key takes, where its type does not say it in words.
TAKES = {
    "listen": "`host:port`",
    "admin": "`host:port` or `off`",
    "access_log": "`stdout`, `off` or a path",
    "trusted_proxies": "list of address ranges",
    "limits": "[mapping](#limits)",
    "services": "mapping of names to [services](#a-service)",
    "routes": "list of [routes](#a-route)",
    "app": "`module:attribute`",
    "run": "list of words, or text",
    "targets": "list of [targets](#a-target)",
    "zones": "mapping of names to [zones](#a-zone)",
    "near": "name of a zone",
    "env": "mapping of names to text",
    "cwd": "path",
    "health": "[mapping](#health)",
    "balance": "a policy, or [mapping](#balance)",
    "by": "`header:NAME`, `cookie:NAME`, `param:NAME` or `address`",
    "sticky": "[mapping](#sticky)",
    "cookie": "name of a cookie",
    "secret": "text",
    "eject": "[mapping](#eject) or `off`",
    "slow_start": "duration or `off`",
    "hedge": "[mapping](#hedge)",
    "after": "duration, or a percentile",
    "stream_idle_timeout": "duration or `off`",
    "tunnel_idle_timeout": "duration or `off`",
    "breaker": "[mapping](#breaker)",
    "retries": "[mapping](#retries)",
    "concurrency": "`adaptive`, or [mapping](#concurrency)",
    "on_status": "list of numbers, 500 to 599",
    "url": "`http://host:port`, `https://…`, `dns+http://…`",
    "Target.file": "path",
    "dns": "[mapping](#dns)",
    "server": "address, or address and port",
    "host": "name or `*.suffix`",
    "methods": "list of methods",
    "service": "name of a service",
    "compose": "mapping of keys to [parts](#a-part-of-a-composition)",
    "rewrite": "path template",
    "login": "[mapping](#login)",
    "logout": "`true`",
    "sessions": "[mapping](#sessions)",
    "Login.path": "path",
    "origins": "origin or a list",
    "roles": "text or a list",
    "pass_status": "list of numbers, 400 to 599",
    "on_error": "[mapping](#on_error) or `null`",
    "value": "any JSON",
    "cache": "[mapping](#caching)",
    "compress": "`true`, a list of codings, or [mapping](#compress)",
    "codings": "list of codings",
    "types": "list of media types",
    "namespace": "name",
    "redis": "`redis://host:port/database`",
    "statuses": "list of numbers, 200 to 599",
    "tags": "list of texts",
    "query": "list of names",
    "vary_on": "list of field names",
    "rate_limit": "[limit](#rate_limit) or a list",
    "rate": "rate",
    "keys": "[mapping](#keys)",
    "jwt": "[mapping](#jwt)",
    "algorithms": "list of algorithms",
    "key": "path",
    "jwks": "address or path",
    "issuer": "text",
    "audience": "text or a list",
    "consumer_claim": "text",
    "scope_claim": "text",
    "forward": "mapping of claims to fields",
    "store": "`redis` or a path",
    "header": "name of a field",
    "auth": "list of kinds",
    "clients": "[mapping](#clients)",
    "allow": "list of address ranges",
    "deny": "list of address ranges",
    "require": "[mapping](#require)",
    "scopes": "list of scopes",
    "consumers": "list of consumers",
    "claims": "mapping of claims to values",
    "RateLimit.by": "text",
    "Config.tls": "[mapping](#tls)",
    "Service.tls": "[mapping](#tls-of-a-service)",
    "certificate": "path",
    "client_ca": "path",
    "certificates": "list of [certificates](#certificates)",
    "names": "list of names",
    "ca": "path",
    "server_name": "name",
    "ListenerTls.minimum": "`1.2`, `1.3`",
    "verify": "`true` or `false`",
    "dry_run": "`true` or `false`",
    "cors": "[mapping](#cors)",
    "forward_auth": "[mapping](#forward_auth)",
    "ForwardAuth.path": "path",
    "Config.identity_token": "[mapping](#identity_token)",
    "Route.identity_token": "`true`",
    "IdentityToken.audience": "text",
    "send_headers": "name of a field or a list",
    "copy_headers": "name of a field or a list",
    "consumer": "name of a field",
    "ForwardAuth.cache": "duration",
    "cache_by": "text or a list",
    "Cors.headers": "name of a field, `*`, or a list",
    "expose": "name of a field or a list",
    "request_headers": "[mapping](#request_headers-and-response_headers)",
    "response_headers": "[mapping](#request_headers-and-response_headers)",
    "set": "mapping of fields to values",
    "add": "mapping of fields to values",
    "remove": "name of a field or a list",
    "security_headers": "`true`, `off` or [mapping](#security_headers)",
    "hsts": "text or `off`",
    "content_security_policy": "text or `off`",
    "permissions_policy": "text or `off`",
}
PATHS = {"Health": "path", "Route": "path pattern", "Part": "path template"}


def takes(model: type[Model], key: str) -> str:
    of_model = f"{model.__name__}.{key}"
    if of_model in TAKES or key in TAKES:
        return TAKES[of_model if of_model in TAKES else key]
    field = model.model_fields[key]
    annotations = [field.annotation, *typing.get_args(field.annotation)]
    described = [*field.metadata, *(item for known in annotations for item in getattr(known, "__metadata__", ()))]
    for item in described:
        if isinstance(item, WholeNumber):
            return f"number, {item.low} to {item.high}"
        for kind, words in (
            (Duration, "duration"),
            (Size, "size"),
            (Percent, "percentage"),
            (Limit, "size or `unlimited`"),
        ):
            if item == kind.__metadata__[0]:
                return words
    if bool in annotations:
        return "`true` or `false`"
    for known in annotations:
        if typing.get_origin(known) is typing.Literal:
            return ", ".join(f"`{word}`" for word in typing.get_args(known))
    return PATHS[model.__name__]


def table(model: type[Model]) -> str:
    rows = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    for key, field in model.model_fields.items():
        default = default_text(field)
        shown = "required" if field.is_required() else f"`{default}`" if default is not None else ""
        rows.append(f"| `{key}` | {takes(model, key)} | {shown} | {field.description} |")
    return "\n".join(rows).replace("|  |", "| |")


@pytest.mark.parametrize(("name", "heading"), SECTIONS.items())
def test_the_reference_has_every_key_with_its_default(name: str, heading: str) -> None:
    section = re.search(rf"^##+ {re.escape(heading)}\n(.*?)(?=^## |\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    assert section is not None
    expected = table(getattr(models, name))
    assert expected in section.group(1), f"the table should be:\n{expected}"


def test_every_model_has_a_section() -> None:
    found = {
        name
        for name, value in vars(models).items()
        if isinstance(value, type) and issubclass(value, Model) and value is not Model
    }
    assert found == SECTIONS.keys()


def test_the_numbers_in_the_text_are_the_code_s() -> None:
    assert (yaml_tree.MAX_BYTES, yaml_tree.MAX_DEPTH, yaml_tree.MAX_ALIASED) == (2**20, 32, 10_000)
    assert "1 MiB" in REFERENCE and "32 levels" in REFERENCE and "10,000 values" in REFERENCE
    assert substitute.MAX_SECRET_BYTES == 64 * 1024
    assert "64 KiB" in REFERENCE
    assert f"{MAX_SEGMENTS} segments" in ROUTING
    assert f"{MAX_STEPS:,} steps" in ROUTING


def test_what_the_page_shows_is_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every `$ passerelle …` of the page about the command line, on the file that it shows before it."""
    page = (DOCS / "cli.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    good = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert good is not None
    shown = re.findall(r"(?:```text\n([^`]*)```[^`]*)?```console\n\$ passerelle ([^\n>]*)\n(.*?)```", page, re.DOTALL)
    assert [command.split()[0] for _, command, _ in shown] == ["check", "check", "routes", "explain", "explain"]
    for bad, command, output in shown:
        Path("gateway.yaml").write_text(bad or good[1])
        with pytest.raises(SystemExit) as ended:
            main(shlex.split(command))
        assert capsys.readouterr().out == output
        assert ended.value.code == (1 if bad or "answer " in output else 0)


def test_the_allowed_keys_of_a_message_are_those_of_the_model() -> None:
    assert allowed_keys(("routes", 0)) == list(models.Route.model_fields)


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table whose head is ``heading``."""
    start = ROUTING.index(f"| {heading} |")
    lines = ROUTING[start : ROUTING.index("\n\n", start)].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_routing_page_tells_who_wins() -> None:
    example = re.search(r"```yaml\n(services.*?)```", ROUTING, re.DOTALL)
    assert example is not None
    router = Router(rules(load_text(example[1])))
    told = rows("request | route | why")
    assert len(told) == 5
    for request, route, _ in told:
        asked, *host = codes(request)
        method, path = asked.encode().split(b" ")
        value = router.match(host[0].encode() if host else b"", method, path).value
        assert isinstance(value, models.Route)
        assert codes(route) == [value.path, *([value.host] if value.host else [])]


def test_the_routing_page_tells_what_patterns_match() -> None:
    told = rows("pattern | matches | not")
    assert len(told) == 4
    for pattern, matches, misses in told:
        (text,) = codes(pattern)
        router = Router([RouteRule(None, None, text, text)])
        for path in codes(matches.split(" (")[0]):
            assert router.match(b"", b"GET", path.encode()).value == text
        for path in codes(misses):
            assert router.match(b"", b"GET", path.encode()).value is None


def test_the_routing_page_tells_what_is_refused() -> None:
    told = rows("refused | such as")
    assert len(told) == 7
    for _, such in told:
        for path in (code for code in codes(such) if code.startswith("/")):
            with pytest.raises(Failure):
                canonical_path(path.encode())
    for before, after in re.findall(r"`(/[^`]+)` is `(/[^`]+)`", ROUTING):
        assert canonical_path(before.encode()) == after.encode()
    assert canonical_path(b"/%C3%A9") == b"/%C3%A9"

"""What is imported from files of nginx, and what is listed because it is not."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from passerelle.config import inspect_text
from passerelle.importing.draft import ImportProblem
from passerelle.importing.nginx import import_nginx
from tests.export.serving import deployment_of, in_place

pytest.importorskip("crossplane")


def imported(folder: Path, text: str, *, http: bool = True) -> tuple[dict[str, Any], list[str]]:
    """Return the configuration, and what was not carried over, each as `line: what: why`."""
    file = folder / "nginx.conf"
    file.write_text("events {}\nhttp {\n" + text + "\n}\n" if http else text)
    made, skipped = import_nginx(str(file))
    report = inspect_text(made, environ={}, elsewhere=True)
    assert report.config is not None, report.errors
    for each in skipped:
        assert str(each) in made, "the file lists it as well"
    found: dict[str, Any] = yaml.safe_load(made)
    return found, [f"{each.line}: {each.what}: {each.why}" for each in skipped]


def server(*lines: str) -> str:
    return "server {\nlisten 80;\n" + "\n".join(lines) + "\n}"


def route_of(folder: Path, *lines: str) -> tuple[dict[str, Any], list[str]]:
    found, skipped = imported(folder, server(*lines))
    return found["routes"][0], skipped


PASS = "proxy_pass http://127.0.0.1:5000;"


def test_a_service_has_targets_weights_and_a_backup(tmp_path: Path) -> None:
    upstream = """upstream u {
    least_conn;
    server 10.0.0.1:80 weight=2 max_fails=3 fail_timeout=10s;
    server 10.0.0.2:80 down;
    server unix:/run/app.sock backup;
    fair;
}"""
    found, skipped = imported(tmp_path, upstream + server("location / { proxy_pass http://u; }"))
    assert found["services"] == {
        "u": {
            "balance": "least_inflight",
            "zones": {
                "first": {"targets": [{"url": "http://10.0.0.1:80", "weight": 2}]},
                "backup": {"targets": ["unix:/run/app.sock"], "priority": 1},
            },
            "host": "u",
        }
    }
    assert skipped == ["8: fair: passerelle has no counterpart for it"]


ACCESS = [
    (["auth_basic closed;", "auth_basic_user_file /x;"], "auth_basic closed"),
    (["allow 10.0.0.1;", "deny 10.0.0.0/8;", "allow all;"], "location /"),
    (["deny all;"], "location /"),
    (["allow unix:;", "deny all;"], "location /"),
    (["auth_request /none;"], "location /"),
    (["satisfy any;", "allow 10.0.0.1;", "deny all;"], "satisfy any"),
    (["valid_referers none example.com;"], "valid_referers none"),
    (["limit_except GET { deny all; }"], "limit_except GET"),
    (["if ($http_x_key != 'secret') { return 403; }"], "if "),
    (["auth_ldap closed;"], "auth_ldap closed"),
    (["auth_basic off;", "auth_jwt closed;"], "auth_jwt closed"),
    (["access_by_lua_file /x.lua;"], "access_by_lua_file /x.lua"),
]


@pytest.mark.parametrize(("rules", "what"), ACCESS)
def test_a_route_whose_access_rules_have_no_counterpart_is_closed(tmp_path: Path, rules: list[str], what: str) -> None:
    route, skipped = route_of(tmp_path, "location / {", *rules, PASS, "}")
    assert route == {"path": "/{rest*}", "respond": 501}
    assert any(what in each and "until then the route responds 501" in each for each in skipped), skipped
    assert "secret" not in "".join(skipped)


def test_access_rules_around_a_location_hold_for_it(tmp_path: Path) -> None:
    found, _ = imported(
        tmp_path,
        server("auth_basic closed;", f"location /a/ {{ {PASS} }}", f"location /b/ {{ auth_basic off; {PASS} }}"),
    )
    assert [route.get("respond") for route in found["routes"]] == [501, None]


CLIENTS = [
    (["allow 10.0.0.0/8;", "allow ::1;", "deny all;"], {"allow": ["10.0.0.0/8", "::1"]}),
    (["deny 10.0.0.1;", "allow 10.0.0.0/8;", "deny all;"], {"allow": ["10.0.0.0/8"], "deny": ["10.0.0.1"]}),
    (["deny 10.0.0.1;"], {"deny": ["10.0.0.1"]}),
    (["deny 10.0.0.1;", "allow all;"], {"deny": ["10.0.0.1"]}),
]


@pytest.mark.parametrize(("rules", "clients"), CLIENTS)
def test_lists_of_addresses(tmp_path: Path, rules: list[str], clients: dict[str, Any]) -> None:
    route, skipped = route_of(tmp_path, "location / {", *rules, PASS, "}")
    assert (route["clients"], skipped) == (clients, [])


RETURNS = [
    ("return 204;", {"respond": 204}),
    ("return 200 'hi there';", {"respond": {"status": 200, "body": "hi there"}}),
    ("return 444;", {"respond": 403}),
    ("return 301 https://$host$request_uri;", {"redirect": {"status": 301, "scheme": "https"}}),
    (
        "return 308 https://new.example$request_uri;",
        {"redirect": {"status": 308, "scheme": "https", "host": "new.example"}},
    ),
    ("return 302 /login;", {"redirect": {"status": 302, "path": "/login", "query": "drop"}}),
    (
        "return https://a.example/x;",
        {"redirect": {"status": 302, "scheme": "https", "host": "a.example", "path": "/x", "query": "drop"}},
    ),
]


@pytest.mark.parametrize(("line", "action"), RETURNS)
def test_returns_become_redirects_and_responses(tmp_path: Path, line: str, action: dict[str, Any]) -> None:
    route, skipped = route_of(tmp_path, f"location / {{ {line} }}")
    assert (route, skipped) == ({"path": "/{rest*}", **action}, [])


LISTED = [
    (
        "location ~ \\.php$ { fastcgi_pass 127.0.0.1:9000; }",
        "3: location ~ \\.php$: this expression has no counterpart",
    ),
    ("location / { proxy_pass http://$backend; }", "3: proxy_pass http://$backend: its variables or its query"),
    ("location @named { proxy_pass http://127.0.0.1:1; }", "3: location @named: a named location"),
    ("rewrite ^/a /b last;", "3: rewrite ^/a: expressions have no counterpart"),
    ("set $x 1;", "3: set $x: variables have no counterpart"),
    ("wondrous on;", "3: wondrous on: passerelle has no counterpart for it"),
    ("location / { return 200 $host; }", "3: return 200: its variables have no counterpart"),
    ("location '/a{b}/' { return 200; }", "3: location /a{b}/: the path has no counterpart"),
    ("location /x/ { }", "3: location /x/: nothing in it says what responds"),
    ("error_page 404 /404.html;", "3: error_page 404: write errors: with the file"),
]


@pytest.mark.parametrize(("line", "expected"), LISTED)
def test_what_has_no_counterpart_is_listed_with_its_line(tmp_path: Path, line: str, expected: str) -> None:
    _, skipped = imported(
        tmp_path, "server { listen 80;\nlocation = /ok { return 204; }".replace("\n", " ") + "\n" + line + "\n}"
    )
    lines = [each.replace("4: ", "3: ", 1) for each in skipped]
    assert any(each.startswith(expected) for each in lines), skipped


def test_values_that_may_be_secrets_are_not_listed(tmp_path: Path) -> None:
    _, skipped = imported(
        tmp_path, server("location / {", "proxy_set_header Authorization 'Basic $pass word';", PASS, "}")
    )
    assert skipped == ["6: proxy_set_header Authorization: its variables have no counterpart"]


def test_maps_and_other_servers_are_listed(tmp_path: Path) -> None:
    text = """map $uri $kind { default a; }
map $http_upgrade $connection_upgrade { default upgrade; '' close; }
server { listen 443 ssl; server_name a.example *.b.example .c.example;
    ssl_certificate /c.pem; ssl_certificate_key /k.pem;
    proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
    location / { proxy_pass http://127.0.0.1:1; } }
server { listen 80; server_name a.example; return 301 https://$host$request_uri; }
server { listen 443 ssl; server_name ~^(?<user>.+)\\.d\\.example$; location / { proxy_pass http://127.0.0.1:1; } }"""
    found, skipped = imported(tmp_path, text)
    assert found["listen"] == ["0.0.0.0:443", {"address": "0.0.0.0:80", "https_redirect": 301}]
    assert found["tls"] == {"certificate": "/c.pem", "key": "/k.pem"}
    assert [route["host"] for route in found["routes"]] == [["a.example", "*.b.example", "c.example", "*.c.example"]]
    assert [each.partition(": ")[0] for each in skipped] == ["3", "10"]
    assert "variables" in skipped[0] and "expressions of hosts" in skipped[1]


def test_files_that_are_included_are_read_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.conf").write_text(server("location /a/ { proxy_pass http://127.0.0.1:1; }", "odd;"))
    (tmp_path / "proxy.inc").write_text("proxy_read_timeout 7s;\n")
    found, skipped = imported(tmp_path, "include conf.d/*.conf;\ninclude proxy.inc;\ninclude conf.d/none-*.conf;")
    assert found["routes"] == [{"path": "/a/{rest*}", "service": "service-127-0-0-1-1", "timeout": "7s"}]
    assert skipped == ["4: odd: passerelle has no counterpart for it"]


def test_lines_behind_an_include_are_those_of_the_file_around_it(tmp_path: Path) -> None:
    (tmp_path / "proxy.inc").write_text("odd;\n")
    (tmp_path / "nginx.conf").write_text("include proxy.inc;\nstrange;\n" + server("return 204;"))
    _, skipped = import_nginx(str(tmp_path / "nginx.conf"))
    assert [(Path(each.file).name, each.line, each.what) for each in skipped] == [
        ("nginx.conf", 2, "strange"),
        ("proxy.inc", 1, "odd"),
    ]


TLS = "ssl_certificate /c.pem; ssl_certificate_key /k.pem;"
LISTENERS = [
    (["listen 80; listen [::]:80; return 204;"], ["0.0.0.0:80", "[::]:80"]),
    (["listen unix:/run/g.sock; return 204;"], "unix:/run/g.sock"),
    (
        [f"listen 80; listen 443 ssl; {TLS} return 204;"],
        [{"address": "0.0.0.0:80", "tls": False}, "0.0.0.0:443"],
    ),
    (
        [
            f"listen 443 ssl; {TLS} return 204;",
            "listen 80; listen [::]:80; server_name a.example; location /.well-known/acme-challenge/ { root /w; } "
            "location / { return 308 https://a.example$request_uri; }",
        ],
        [
            "0.0.0.0:443",
            {"address": "0.0.0.0:80", "https_redirect": 308},
            {"address": "[::]:80", "https_redirect": 308},
        ],
    ),
    (
        [
            f"listen 443 ssl; {TLS} return 204;",
            "listen 80; if ($host = a.example) { return 301 https://$host$request_uri; } return 404;",
        ],
        ["0.0.0.0:443", {"address": "0.0.0.0:80", "https_redirect": 301}],
    ),
]


@pytest.mark.parametrize(("servers", "listen"), LISTENERS)
def test_listeners_and_redirects_to_https(tmp_path: Path, servers: list[str], listen: Any) -> None:
    found, skipped = imported(tmp_path, "\n".join(f"server {{ {each} }}" for each in servers))
    assert (found["listen"], skipped) == (listen, [])
    assert [route["respond"] for route in found["routes"]] == [204]


@pytest.mark.parametrize(
    "other",
    [
        "location / { return 301 https://else.example$request_uri; }",
        "location / { return 302 https://$host$request_uri; }",
        "location /x/ { proxy_pass http://127.0.0.1:1; } location / { return 301 https://$host$request_uri; }",
        "return 204;",
    ],
)
def test_a_plain_server_that_does_more_than_redirect_is_listed(tmp_path: Path, other: str) -> None:
    text = f"server {{ listen 443 ssl; {TLS} return 204; }}\nserver {{ listen 80; {other} }}"
    found, skipped = imported(tmp_path, text)
    assert found["listen"] == "0.0.0.0:443"
    assert skipped == ["4: server: routes are for all listeners; run another gateway for 0.0.0.0:80"]


def test_what_listeners_cannot_have_is_listed(tmp_path: Path) -> None:
    text = f"server {{ listen 443 ssl; listen 443 quic; {TLS} return 204; }}\n"
    text += "server { listen 443 ssl proxy_protocol; listen 8443 ssl; server_name b; return 200; }"
    found, skipped = imported(tmp_path, text)
    assert found["listen"] == "0.0.0.0:443"
    assert skipped == [
        "3: listen 443 quic: passerelle has no HTTP/3",
        "4: listen 443 ssl proxy_protocol: write proxy_protocol of it",
        "4: listen: its routes are for all listeners; write 0.0.0.0:8443 in listen if that is right",
    ]


def test_real_ip_becomes_trusted_proxies_if_all_servers_have_the_same(tmp_path: Path) -> None:
    trust = "set_real_ip_from 10.0.0.0/8; set_real_ip_from 192.0.2.1; real_ip_header X-Forwarded-For;"
    found, skipped = imported(tmp_path, f"{trust}\n{server('return 204;')}")
    assert (found["trusted_proxies"], skipped) == (["10.0.0.0/8", "192.0.2.1"], [])
    found, skipped = imported(tmp_path, server(trust, "return 204;") + server("server_name b;", "return 200;"))
    assert "trusted_proxies" not in found
    assert skipped == ["1: set_real_ip_from: trusted_proxies are for all servers, and theirs differ"]
    found, skipped = imported(tmp_path, server(trust.replace("Forwarded-For", "Real-IP"), "return 204;"))
    assert "trusted_proxies" not in found
    assert [each.partition(": ")[2] for each in skipped] == [
        "real_ip_header X-Real-IP: passerelle reads X-Forwarded-For of trusted_proxies"
    ]


def test_a_field_that_only_the_gateway_sets_is_listed_and_the_route_stays(tmp_path: Path) -> None:
    lines = ["proxy_set_header X-Forwarded-Proto https;", "proxy_set_header X-Scheme $scheme;", PASS]
    route, skipped = route_of(tmp_path, "location /a/ {", *lines, "allow 10.0.0.0/8;", "deny all;", "}")
    assert route["clients"] == {"allow": ["10.0.0.0/8"]}
    assert route["request_headers"] == {"set": {"X-Scheme": "http"}}
    assert [each.partition(": ")[2].partition(":")[0] for each in skipped] == ["proxy_set_header X-Forwarded-Proto"]


def test_a_route_that_is_refused_is_closed_since_a_wider_one_would_take_its_requests(tmp_path: Path) -> None:
    closed = f"location /a/ {{ allow 10.0.0.0/8; deny all; add_header Date x; {PASS} }}"
    found, skipped = imported(tmp_path, server(closed, f"location / {{ {PASS} }}"))
    assert found["routes"][0] == {"path": "/a/{rest*}", "respond": 501}
    assert len(skipped) == 1 and skipped[0].endswith("; until then the route responds 501")


def test_internal_locations_are_not_for_clients(tmp_path: Path) -> None:
    inner = ["location /a/ { internal; root /w; }", "location ~ ^/b/(.*)$ { internal; root /w; }"]
    found, skipped = imported(tmp_path, server(*inner, "location = /ok { return 204; }"))
    assert [route["path"] for route in found["routes"]] == ["/ok"]
    why = "files that services name in X-Accel-Redirect have no counterpart"
    assert [each.rpartition(": ")[2] for each in skipped] == [why, why]


TRIED = [
    ("try_files /site/public/$uri =404;", {"static": {"folder": "/w/site/public"}}),
    ("try_files $uri /site/$uri =404;", {"respond": 501}),
    ("try_files /$host/$uri =404;", {"respond": 501}),
]


@pytest.mark.parametrize(("line", "action"), TRIED)
def test_no_other_files_are_served_than_those_that_nginx_tries(
    tmp_path: Path, line: str, action: dict[str, Any]
) -> None:
    route, skipped = route_of(tmp_path, "location / {", "root /w;", line, "}")
    assert route == {"path": "/{rest*}", **action}
    assert bool(skipped) is ("respond" in action)


@pytest.mark.parametrize("inner", ["proxy_pass http://$backend;", "return 200 $host;", ""])
def test_a_location_without_a_counterpart_is_closed_since_a_wider_one_would_take_its_requests(
    tmp_path: Path, inner: str
) -> None:
    found, skipped = imported(tmp_path, server(f"location /a/ {{ {inner} }}", f"location / {{ {PASS} }}"))
    assert found["routes"][0] == {"path": "/a/{rest*}", "respond": 501}
    assert len(skipped) == 1 and skipped[0].endswith("; until then the route responds 501")


CACHES = [
    ("proxy_cache_key $scheme$proxy_host$request_uri;", {"ttl": "30s"}),
    ("proxy_cache_key $host$uri$is_args$args$http_accept_language;", {"ttl": "30s", "vary_on": ["Accept-Language"]}),
    ("proxy_cache_key $uri$cookie_user;", None),
    ("proxy_cache_bypass $http_upgrade;", {"ttl": "30s"}),
    ("proxy_no_cache $cookie_session;", None),
    ("proxy_cache_bypass $cookie_session;", None),
]


@pytest.mark.parametrize(("line", "cache"), CACHES)
def test_nothing_is_stored_where_nginx_would_not_use_it(
    tmp_path: Path, line: str, cache: dict[str, Any] | None
) -> None:
    lines = ["location / {", "proxy_cache c;", "proxy_cache_valid 200 30s;", line, PASS, "}"]
    route, skipped = route_of(tmp_path, *lines)
    assert route.get("cache") == cache
    assert any("nothing is stored" in each for each in skipped) is (cache is None)


def test_fields_of_cors_become_cors(tmp_path: Path) -> None:
    fields = {"Origin": "https://a.example", "Methods": "'GET, PUT'", "Headers": "X-A", "Credentials": "true"}
    lines = [f"add_header Access-Control-Allow-{name} {value};" for name, value in fields.items()]
    route, skipped = route_of(tmp_path, "location / {", *lines, "add_header Access-Control-Max-Age 60;", PASS, "}")
    assert skipped == [] and "response_headers" not in route
    assert route["cors"] == {
        "origins": ["https://a.example"],
        "methods": ["GET", "PUT"],
        "headers": ["X-A"],
        "credentials": True,
        "max_age": "60s",
    }


def test_an_authorization_request_to_an_open_location_around_it(tmp_path: Path) -> None:
    auth = "location /.auth/ { auth_request off; proxy_pass http://127.0.0.1:4180; }"
    found, skipped = imported(tmp_path, server(auth, f"location / {{ auth_request /.auth/check; {PASS} }}"))
    assert found["routes"][1]["forward_auth"] == {"service": "service-127-0-0-1-4180", "path": "/.auth/check"}
    assert (found["routes"][0]["path"], skipped) == ("/.auth/{rest*}", [])


def test_a_server_that_is_resolved_again_becomes_a_name_to_resolve(tmp_path: Path) -> None:
    found, skipped = imported(
        tmp_path, "upstream u { server app.example:80 resolve; }" + server("location / {", "proxy_pass http://u;", "}")
    )
    assert (found["services"]["u"]["targets"], skipped) == (["dns+http://app.example:80"], [])


def test_a_file_with_servers_alone_is_read(tmp_path: Path) -> None:
    found, _ = imported(tmp_path, server(f"location / {{ {PASS} }}"), http=False)
    assert found["listen"] == "0.0.0.0:80"
    assert found["services"] == {"service-127-0-0-1-5000": {"targets": ["http://127.0.0.1:5000"], "host": "upstream"}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("events {}", "it has no server block"),
        ("http { server { listen 80; ", "unexpected end of file"),
        ("include none.conf;\nserver {}", "No such file"),
        ("", "it has no server block"),
        ("\0\1\2", ""),
        ("include nginx.conf;\nserver { return 200; }", ""),
    ],
)
def test_odd_files_are_reported_on_one_line_or_read(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "nginx.conf"
    file.write_text(text)
    if not reason:
        with contextlib.suppress(ImportProblem):
            assert inspect_text(import_nginx(str(file))[0], environ={}).config is not None
        return
    with pytest.raises(ImportProblem) as caught:
        import_nginx(str(file))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_the_export_writes_is_imported_again(tmp_path: Path) -> None:
    routes = [
        {"path": "/api/{rest*}", "service": "u", "rewrite": "/{rest}"},
        {"path": "/exact", "service": "u"},
        {"path": "/user/{id}/orders", "service": "u"},
        {"path": "/moved", "redirect": {"status": 301, "path": "/exact"}},
        {"path": "/ok", "respond": 204},
    ]
    services = {"u": {"targets": ["http://127.0.0.1:5001", "http://127.0.0.1:5002"]}}
    text, lost = in_place(deployment_of(services, routes))
    assert lost == []
    found, skipped = imported(tmp_path, text, http=False)
    assert found["services"] == {"u": {**services["u"], "balance": "p2c", "connect_timeout": "2s"}}
    known = {route["path"]: route for route in found["routes"]}
    assert {path: route.get("rewrite") for path, route in known.items()} == {
        "/api/{rest*}": "/{rest}",
        "/exact": None,
        "/user/{p2}/orders": None,
        "/moved": None,
        "/ok": None,
        "/{rest*}": None,
    }
    assert known["/moved"]["redirect"] == {"status": 301, "path": "/exact"}
    assert (known["/ok"]["respond"], known["/{rest*}"]["respond"]) == (204, 404)
    assert (known["/exact"]["timeout"], known["/exact"]["attempts"], known["/exact"]["body"]) == ("30s", 2, "10MiB")
    assert {each.partition(": ")[2].partition(" ")[0] for each in skipped} <= {
        "geo",
        "map",
        "proxy_set_header",
        *_REPEATED,
    }


# Directives that the export writes for all locations, or that only some of them use.
_REPEATED = ("proxy_next_upstream", "proxy_next_upstream_timeout", "limit_req_status", "proxy_redirect", "return")


PATTERNS = [
    ("^/user/([^/]+)$", "/user/{p2}"),
    ("^/files/(.*)$", "/files/{rest*}"),
    ("^/a\\.txt$", "/a.txt"),
    ("^/user/(\\d+)$", "/user/{p2:\\d+}"),
    ("^/api/[1-9]\\d*/", "/api/{p2:[1-9]\\d*}/{rest*}"),
    ("^/(api|feeds|.well-known)", "/{p1:(api|feeds|.well-known).*}/{rest*}"),
    ("^/(login[^-/]|reset)", "/{p1:(login[^-]|reset).*}/{rest*}"),
    ("^/v/", "/v/{rest*}"),
    ("^/user/(?!a)\\d+$", None),
    ("^/(a/b|c)$", None),
    ("^/a/.*[.]html", None),
    ("^/a/x[^-]+$", None),
    ("^/a/(x.*)/b$", None),
    ("\\.php$", None),
    ("^/a|/b$", None),
    ("^/x/(.*)/y$", None),
]


def test_groups_of_an_expression_are_counted_as_nginx_counts_them(tmp_path: Path) -> None:
    rewrite = "rewrite ^/[^/]+/x/([^/]+)$ /y/$1 break;"
    route, _ = route_of(tmp_path, "location ~ ^/[^/]+/x/([^/]+)$ {", rewrite, PASS, "}")
    assert (route["path"], route["rewrite"]) == ("/{p1}/x/{p3}", "/y/{p3}")


@pytest.mark.parametrize(("expression", "path"), PATTERNS)
def test_simple_expressions_become_patterns(tmp_path: Path, expression: str, path: str | None) -> None:
    found, _ = imported(tmp_path, server(f"location ~ {expression} {{ {PASS} }}", "location = /ok { return 204; }"))
    assert [route["path"] for route in found["routes"]] == [*([path] if path else []), "/ok"]

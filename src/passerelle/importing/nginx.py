"""First configurations from those of nginx, which crossplane reads.

Each directive is either marked as carried over, or listed. nginx does by default what some of them state, and
passerelle always does what others switch on: those are in :data:`SAME`. Directives of a block apply to the blocks
within it as in nginx: a block that has a directive of a name has none of that name from around it.

The file is longer than 400 lines because it is one walk over the directives of a server, whose results depend on each
other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from passerelle.http.field_rules import forbidden_request
from passerelle.importing.draft import Draft, DraftRoute, ImportProblem, Skipped, closed
from passerelle.importing.nginx_listeners import Listener, document_of, listeners_of, redirects_to_https
from passerelle.importing.nginx_tree import Directive, Scope, read_nginx
from passerelle.importing.nginx_values import (
    cors_of,
    is_plain,
    key_fields,
    pairs,
    pattern_of,
    patterns_of,
    refuses,
    returned_action,
    rewrite_of,
    split_url,
    target_url,
    template_of,
)
from passerelle.importing.nginx_words import (
    ACCESS,
    ACCESS_PREFIXES,
    BALANCE,
    CARRIED,
    DEFAULT_BODY,
    FORWARDED,
    HOST_VARIABLES,
    LIMITS,
    NO_ACCESS,
    NO_EXPRESSION,
    NOT_STORED,
    OF_SERVICES,
    SAME,
    UNKNOWN,
    WHY,
)
from passerelle.importing.units import duration, network, nginx_seconds, size, size_text


@dataclass(slots=True)
class _Location:
    """A location, or the server itself: its patterns, its scope, and what the routes of it are listed as."""

    directive: Directive
    scope: Scope
    paths: list[str]
    prefix: str
    hosts: list[str] = field(default_factory=list)


def import_nginx(path: str) -> tuple[str, list[Skipped]]:
    """Return the configuration for the nginx file ``path``, and what was not carried over.

    :raises ImportProblem: if it cannot be read.
    """
    return _Importer(path, read_nginx(path)).result()


class _Importer:
    """Makes a draft of the directives of one file."""

    def __init__(self, path: str, directives: list[Directive]) -> None:
        self._draft = Draft(path)
        # A file of a folder such as conf.d has servers without the block around them.
        self._all = directives
        http = next((each for each in directives if each.name == "http"), None)
        self._http = Scope(http.block or [] if http is not None else directives)
        self._upstreams: dict[str, Directive] = {}
        self._zones: dict[str, tuple[str, str]] = {}
        self._listeners: list[Listener] = []
        self._trusted: list[frozenset[str]] = []  # `set_real_ip_from` of each server

    def result(self) -> tuple[str, list[Skipped]]:
        """Return the text and what was not carried over."""
        servers = [each for each in self._http.directives if each.name == "server" and each.block is not None]
        if not servers:
            raise ImportProblem(f"{self._draft.source}: it has no server block")
        for directive in self._http.directives:
            if directive.name == "upstream" and directive.block is not None and directive.args:
                self._upstreams[directive.args[0]] = directive
            if directive.name == "limit_req_zone":
                self._add_zone(directive)
        body = self._http.one("client_max_body_size")
        limit = size(body.args[0]) if body is not None and body.args else DEFAULT_BODY
        self._draft.top["limits"] = limits = {"body": size_text(limit) if limit else "unlimited"}
        for name, key in LIMITS.items():
            found = next((each for each in self._http.directives if each.name == name), None)
            if found is not None and (seconds := nginx_seconds(found.args[0])) is not None:
                found.used = True
                limits[key] = duration(seconds)
        for each in self._all:
            if each.name == "worker_processes" and each.args[0].isdigit():
                each.used = True
                self._draft.top["workers"] = int(each.args[0])
        for directive in sorted(servers, key=is_plain):
            self._server(directive)
        if self._listeners:
            self._draft.top["listen"] = document_of(self._listeners)
        self._trust()
        self._list_unused(self._all)
        return self._draft.finish()

    def _add_zone(self, directive: Directive) -> None:
        values = dict(arg.partition("=")[::2] for arg in directive.args[1:] if "=" in arg)
        name, rate = values.get("zone", "").partition(":")[0], values.get("rate", "")
        match = re.fullmatch(r"(\d+)r/([sm])", rate)
        if name and match is not None:
            self._zones[name] = directive.args[0], f"{match[1]}/{match[2]}"

    def _list_unused(self, directives: Sequence[Directive]) -> None:
        for directive in directives:
            if directive.name == "map" and directive.args[:1] == ["$http_upgrade"]:
                continue  # passerelle passes upgrades on
            if directive.name == "proxy_redirect" and directive.args in (["off"], ["default"]):
                continue  # without rewrite_response, which a changed path alone has
            if directive.name == "location" and not directive.used and _is_internal(directive):
                self._skip(directive, "files that services name in X-Accel-Redirect have no counterpart")
                self._mark_all(directive)
                continue
            if not directive.used and directive.name not in SAME:
                why = ACCESS.get(directive.name) or WHY.get(directive.name, UNKNOWN)
                used = directive.name in CARRIED
                self._skip(directive, "nothing that was carried over uses it" if used else why)
            elif directive.block is not None and directive.name not in ("types", "upstream"):
                self._list_unused(directive.block)

    def _skip(self, directive: Directive, why: str) -> None:
        directive.used = True
        self._draft.skip(directive.file, directive.line, directive.text, why)

    # ---- servers

    def _server(self, directive: Directive) -> None:
        scope = Scope(directive.block or [], self._http)
        if not self._listens(directive, scope):
            return
        hosts = self._hosts(scope)
        if hosts is None:
            return
        self._tls(scope)
        self._real_ip(scope)
        for each in scope.directives:
            # The export of passerelle refuses paths with it that passerelle refuses itself.
            each.used = each.used or (each.name == "if" and each.args == ["$refused_path"])
        if any(each.name == "if" and not each.used and refuses(each) for each in scope.directives):
            self._skip(directive, "a condition refuses some requests; it has no counterpart, so no route was written")
            self._mark_all(directive)
            return
        locations = list(self._locations(directive.block or [], scope, hosts))
        if not any("/{rest*}" in location.paths for location in locations) and (
            scope.find("return", "root", "proxy_pass") is not None
        ):
            locations.append(_Location(directive, scope, ["/{rest*}"], "/", hosts))
        for location in locations:
            self._location(location)

    def _mark_all(self, directive: Directive) -> None:
        for each in directive.block or []:
            each.used = True
            self._mark_all(each)

    def _listens(self, directive: Directive, scope: Scope) -> bool:
        """Take the listeners of the first server; return whether this server has one of them."""
        listens = [each for each in scope.directives if each.name == "listen"]
        own = listeners_of(directive)
        for each in listens:
            each.used = True
            for word, why in (("quic", "passerelle has no HTTP/3"), ("proxy_protocol", "write proxy_protocol of it")):
                if word in each.args:
                    self._skip(each, why)
        if not own:
            self._skip(directive, "it has no address that a listener can have")
            self._mark_all(directive)
            return False
        self._listeners = self._listeners or own
        known = {each.address: each for each in self._listeners}
        shared = [each for each in own if each.address in known and known[each.address].https_redirect is None]
        if not shared:
            self._add_redirect(directive, scope, own)
            return False
        more = [each.address for each in own if each.address not in known]
        fewer = [each for each in known if each not in {listener.address for listener in own}]
        if more:
            why = f"its routes are for all listeners; write {', '.join(more)} in listen if that is right"
            self._draft.skip(directive.file, directive.line, "listen", why)
        elif any(known[each].https_redirect is None for each in fewer):
            why = f"its routes are for all listeners, also for {', '.join(fewer)}"
            self._draft.skip(directive.file, directive.line, "server", why)
        return True

    def _add_redirect(self, directive: Directive, scope: Scope, own: list[Listener]) -> None:
        """Take the listeners of a server that redirects all requests to those with TLS, or list the server."""
        status = redirects_to_https(directive, self._names(scope))
        if status is None or not any(each.is_tls for each in self._listeners) or any(each.is_tls for each in own):
            why = f"routes are for all listeners; run another gateway for {', '.join(each.address for each in own)}"
            self._skip(directive, why)
        else:
            known = {each.address for each in self._listeners}
            self._listeners += [
                Listener(each.address, is_tls=False, https_redirect=status) for each in own if each.address not in known
            ]
        self._mark_all(directive)

    def _names(self, scope: Scope) -> list[str]:
        return [name for each in scope.directives if each.name == "server_name" for name in each.args]

    def _trust(self) -> None:
        """Write the proxies whose addresses of clients are believed, if all servers have the same ones."""
        found = set(self._trusted)
        if len(found) == 1 and (ranges := found.pop()):
            self._draft.top["trusted_proxies"] = sorted(ranges)
        elif any(found):
            why = "trusted_proxies are for all servers, and theirs differ"
            self._draft.skip(self._draft.source, 1, "set_real_ip_from", why)

    def _real_ip(self, scope: Scope) -> None:
        ranges: set[str] = set()
        for each in scope.all("set_real_ip_from"):
            if (found := network(each.args[0])) is None:
                self._skip(each, "trusted_proxies has addresses alone")
            else:
                ranges.add(found)
        header = scope.one("real_ip_header")
        if header is not None and header.args[0].lower() not in ("x-forwarded-for", "proxy_protocol"):
            self._skip(header, "passerelle reads X-Forwarded-For of trusted_proxies")
            ranges.clear()
        scope.all("real_ip_recursive")
        self._trusted.append(frozenset(ranges))

    def _hosts(self, scope: Scope) -> list[str] | None:
        """Return the hosts of a server, none for all; or None if they have no counterpart."""
        hosts: list[str] = []
        for each in [each for each in scope.directives if each.name == "server_name"]:
            for name in each.args:
                if name.startswith("~") or name.endswith(".*") or "$" in name:
                    self._skip(each, "expressions of hosts have no counterpart; no route of the server was written")
                    for directive in scope.directives:
                        directive.used = True
                        self._mark_all(directive)
                    return None
                if name.startswith("."):
                    hosts += [name[1:], f"*{name}"]
                elif name not in ("", "_", "localhost") and not name.startswith("_"):
                    hosts.append(name)
        return hosts

    def _tls(self, scope: Scope) -> None:
        certificate, key = scope.one("ssl_certificate"), scope.one("ssl_certificate_key")
        if certificate is None or key is None or not certificate.args or not key.args:
            return
        if "tls" in self._draft.top:
            known = self._draft.top["tls"]
            if known["certificate"] != certificate.args[0]:
                self._skip(certificate, "write tls.certificates, one for each name")
            return
        self._draft.top["tls"] = {"certificate": certificate.args[0], "key": key.args[0]}

    def _locations(self, directives: Sequence[Directive], around: Scope, hosts: list[str]) -> Iterator[_Location]:
        for directive in directives:
            if directive.name != "location" or directive.block is None:
                continue
            modifier, path = directive.args if len(directive.args) == 2 else ("", directive.args[-1])
            if _is_internal(directive):
                continue  # see _forward_auth
            if modifier == "~" and (pattern := pattern_of(path)) is not None:
                directive.used = True
                yield _Location(directive, Scope(directive.block, around), [pattern], path, hosts)
                continue
            if modifier not in ("", "=", "^~") or path.startswith("@"):
                why = "a named location" if path.startswith("@") else NO_EXPRESSION
                self._skip(directive, why)
                self._mark_all(directive)
                continue
            if any(char in path for char in "{}*?#%") or "//" in path:
                self._skip(directive, "the path has no counterpart")
                self._mark_all(directive)
                continue
            directive.used = True
            scope = Scope(directive.block, around)
            yield _Location(directive, scope, patterns_of(modifier, path), path, hosts)
            if modifier == "" and not path.endswith("/") and path != "/":
                what = f"location {path}"
                self._draft.skip(directive.file, directive.line, what, f"paths such as {path}x are not matched")
            yield from self._locations(directive.block, scope, hosts)

    # ---- locations

    def _location(self, location: _Location) -> None:
        scope = location.scope
        hosts = {"host": location.hosts if len(location.hosts) > 1 else location.hosts[0]} if location.hosts else {}
        access = _access(scope)
        condition = next((each for each in scope.directives if each.name == "if" and refuses(each)), None)
        keys = self._keys(location)
        proxied = next((each for each in scope.directives if each.name == "proxy_pass"), None)
        uri = split_url(proxied.args[0] if proxied is not None and proxied.args else "")
        if uri is not None and uri[2] and not location.prefix.endswith("/") and location.paths != [location.prefix]:
            # What the service receives ends with a slash for one of them alone.
            location.paths.insert(0, location.prefix)
        for path in location.paths:
            base: dict[str, Any] = {"path": path, **hosts}
            place = location.directive.file, location.directive.line, location.directive.text
            if keys is None or access is not None or condition is not None:
                self._draft.routes.append(DraftRoute(closed(base), *place))
                continue
            action = self._action(location, path)
            if action is None:  # a wider route, which may have fewer guards, is not to take its requests
                self._draft.routes.append(DraftRoute(closed(base), *place))
                continue
            fitting = {key: value for key, value in keys.items() if "service" in action or key not in OF_SERVICES}
            if "redirect" in action:
                fitting.pop("compress", None)
            self._draft.routes.append(DraftRoute(base | action | fitting, *place))
        if keys is None or access is not None or condition is not None:
            what = access or condition or location.directive
            why = ACCESS.get(what.name, "a restriction of access that has no counterpart")
            self._draft.skip(what.file, what.line, what.text, f"{why}; until then the route responds 501")
            if access is not None:
                access.used = True

    def _action(self, location: _Location, path: str) -> dict[str, Any] | None:
        scope, directive = location.scope, location.directive
        own = Scope(scope.directives)
        returned = own.one("return") or (scope.one("return") if scope.around is not None else None)
        conditions = [each for each in scope.directives if each.name == "if"]
        if returned is not None and conditions:
            inner = conditions[0].block or []
            if conditions[0].args[:1] != ["$request_uri"] or [each.name for each in inner] != ["return"]:
                self._skip(returned, "it depends on a condition; until then the route responds 501")
                return None
            # In a location for one path, as the export of passerelle writes it.
            conditions[0].used, returned = True, inner[0]
            returned.used = True
        if returned is not None:
            action = returned_action(returned, path)
            if action is None:
                self._skip(returned, "its variables have no counterpart; until then the route responds 501")
            return action
        proxied = own.one("proxy_pass")
        if proxied is not None:
            return self._proxied(location, proxied, path)
        folder, alias = scope.one("root"), own.one("alias")
        if (folder or alias) is None:
            self._skip(directive, "nothing in it says what responds; until then the route responds 501")
            return None
        return self._static(location, path, folder, alias)

    def _proxied(self, location: _Location, proxied: Directive, path: str) -> dict[str, Any] | None:
        found = split_url(proxied.args[0] if proxied.args else "")
        if found is None:
            self._skip(proxied, "its variables or its query have no counterpart; until then the route responds 501")
            return None
        scheme, authority, uri = found
        action: dict[str, Any] = {"service": self._service(location.scope, scheme, authority)}
        rewrite = rewrite_of(location.prefix, path, uri)
        own = Scope(location.scope.directives).one("rewrite")
        if own is not None:
            rewrite = template_of(own, path)
            if rewrite is None:
                self._skip(own, f"{WHY['rewrite']}; until then the route responds 501")
                return None
        if rewrite is not None and rewrite != path.replace("*}", "}"):
            action["rewrite"] = rewrite
            redirect = location.scope.one("proxy_redirect")
            if redirect is None or redirect.args == ["default"]:
                action["rewrite_response"] = True
            elif redirect.args != ["off"]:
                self._skip(redirect, "write rewrite_response of the route")
        return action

    def _service(self, scope: Scope, scheme: str, authority: str) -> str:
        upstream = self._upstreams.get(authority)
        keys: dict[str, Any] = {}
        if upstream is None:
            keys["targets"] = [target_url(scheme, authority)]
        else:
            upstream.used = True
            self._members(upstream, scheme, keys)
        host = self._sent_host(scope)
        if host is None:
            keys["host"] = authority if upstream is not None else "upstream"
        elif host:
            keys["host"] = host
        if any(name.lower() == "x-real-ip" for name, value in pairs(scope.all("proxy_set_header")) if value):
            keys["forwarding"] = ["X-Real-IP"]
        connect = scope.one("proxy_connect_timeout")
        if connect is not None and (seconds := nginx_seconds(connect.args[0])) is not None:
            keys["connect_timeout"] = duration(seconds)
        verify = scope.one("proxy_ssl_verify")
        if scheme == "https" and (verify is None or verify.args != ["on"]):
            keys["tls"] = {"verify": False}
        name = authority.rpartition("/")[2].rstrip(":") if authority.startswith("unix:") else authority
        return self._draft.add_service(re.sub(r"[.:\[\]]+", "-", name), keys)

    def _members(self, upstream: Directive, scheme: str, keys: dict[str, Any]) -> None:
        targets: list[Any] = []
        backups: list[Any] = []
        for each in upstream.block or []:
            if each.name == "server" and each.args:
                values = dict(arg.partition("=")[::2] for arg in each.args[1:])
                if "down" in values:
                    continue
                url = target_url(scheme, each.args[0])
                if "resolve" in values and scheme == "http" and not url.startswith("unix:"):
                    url = f"dns+{url}"
                weight = values.get("weight", "1")
                target: Any = url if weight == "1" else {"url": url, "weight": int(weight)}
                (backups if "backup" in values else targets).append(target)
                for name in values.keys() - {"weight", "backup", "down", "max_fails", "fail_timeout", "resolve"}:
                    self._draft.skip(each.file, each.line, f"server {each.args[0]} {name}", UNKNOWN)
            elif each.name in BALANCE:
                key = each.args[0] if each.args else ""
                if each.name != "hash":
                    keys["balance"] = BALANCE[each.name]
                    if each.name == "ip_hash":
                        keys["balance"] = {"policy": "hash", "by": "address"}
                elif key == "$remote_addr":
                    keys["balance"] = {"policy": "hash", "by": "address"}
                elif (match := re.fullmatch(r"\$http_([a-z0-9_]+)", key)) is not None:
                    keys["balance"] = {"policy": "hash", "by": f"header:{match[1].replace('_', '-')}"}
                else:
                    self._draft.skip(each.file, each.line, each.text, "write balance of the service")
            elif each.name not in ("keepalive", "zone", "keepalive_timeout", "keepalive_requests", "keepalive_time"):
                self._draft.skip(each.file, each.line, each.text, UNKNOWN)
        if "balance" not in keys and any(isinstance(target, dict) for target in (*targets, *backups)):
            keys["balance"] = "weighted"
        if backups and targets:
            keys["zones"] = {"first": {"targets": targets}, "backup": {"targets": backups, "priority": 1}}
        else:
            keys["targets"] = targets or backups

    def _sent_host(self, scope: Scope) -> str | None:
        """Return the Host that services receive: empty for that of the client, None for that of the upstream."""
        for name, value in pairs(scope.all("proxy_set_header")):
            if name.lower() == "host":
                if value in HOST_VARIABLES:
                    return ""
                return value if value and "$" not in value else None
        return None

    def _static(
        self, location: _Location, path: str, folder: Directive | None, alias: Directive | None
    ) -> dict[str, Any] | None:
        chosen = alias or folder
        assert chosen is not None
        if "$" in chosen.args[0]:
            self._skip(chosen, "its variables have no counterpart; until then the route responds 501")
            return None
        static: dict[str, Any] = {"folder": chosen.args[0].rstrip("/") or "/"}
        action: dict[str, Any] = {"static": static}
        rest = path.endswith("{rest*}")
        if alias is not None and rest:
            action["rewrite"] = "/{rest}"
        elif alias is not None:
            name = static["folder"].rpartition("/")
            static["folder"], action["rewrite"] = name[0] or "/", f"/{name[2]}"
        elif rest and path != "/{rest*}":
            bare = re.sub(r"\{(\w+):[^{}]*\}", r"{\1}", path.removesuffix("{rest*}"))
            action["rewrite"] = f"{bare}{{rest}}"
        index = location.scope.one("index")
        if index is not None:
            names = [name for name in index.args if not name.startswith("/")]
            static["index"] = names[0] if len(names) == 1 else names
        tried = location.scope.one("try_files")
        return action if tried is None or self._try_files(tried, static) else None

    def _try_files(self, tried: Directive, static: dict[str, Any]) -> bool:
        """Read `try_files`; return whether the route would serve no other files than nginx does."""
        *names, last = tried.args
        below = re.fullmatch(r"(/[^$]*?)/?\$uri", names[0]) if len(names) == 1 else None
        if below is not None and below[1].strip("/"):
            static["folder"] = static["folder"].rstrip("/") + below[1]
        elif [name for name in names if not name.startswith("$uri")]:
            self._skip(
                tried, "files that do not begin with $uri have no counterpart; until then the route responds 501"
            )
            return False
        patterns = [name.replace("$uri", "{path}") for name in names if name.startswith("$uri") and name != "$uri/"]
        if patterns not in ([], ["{path}"]):
            static["try_files"] = patterns
        if last.startswith("/") and "$" not in last.partition("?")[0]:
            static["fallback"] = last.partition("?")[0]
        elif last != "=404":
            self._skip(tried, f"the last parameter {last} has no counterpart")
        return True

    # ---- the keys of routes

    def _keys(self, location: _Location) -> dict[str, Any] | None:
        """Return the other keys of a route; None if a restriction of access has no counterpart."""
        scope = location.scope
        keys: dict[str, Any] = {}
        self._times(scope, keys)
        if self._clients(scope, keys) is False or self._forward_auth(scope, keys) is False:
            return None
        self._rate(scope, keys)
        self._headers(scope, keys)
        self._cache(scope, keys)
        self._compress(scope, keys)
        return keys

    def _times(self, scope: Scope, keys: dict[str, Any]) -> None:
        read = scope.one("proxy_read_timeout")
        if read is not None and (seconds := nginx_seconds(read.args[0])) is not None:
            keys["timeout"] = duration(seconds)
        body = None if scope.around is None else self._own_size(scope)
        if body is not None:
            keys["body"] = size_text(body) if body else "unlimited"
        tries = scope.one("proxy_next_upstream_tries")
        if tries is not None and tries.args[0].isdigit() and 1 <= int(tries.args[0]) <= 10:
            keys["attempts"] = int(tries.args[0])

    def _own_size(self, scope: Scope) -> int | None:
        found = scope.one("client_max_body_size")
        if found is None or found in self._http.directives:
            return None
        return size(found.args[0])

    def _clients(self, scope: Scope, keys: dict[str, Any]) -> bool:
        """Read `allow` and `deny`, of which the first that applies decides; return whether that is possible."""
        where: Scope | None = scope
        while where is not None and not any(each.name in ("allow", "deny") for each in where.directives):
            where = where.around
        rules = [each for each in where.directives if each.name in ("allow", "deny")] if where is not None else []
        allow: list[str] = []
        deny: list[str] = []
        for each in rules:
            each.used = True
            text = each.args[0] if each.args else ""
            if text == "all":
                if each.name == "deny":
                    if not allow:
                        return False  # for everyone
                    keys["clients"] = {"allow": allow} | ({"deny": deny} if deny else {})
                elif deny:
                    keys["clients"] = {"deny": deny}
                return not (each.name == "allow" and allow and deny)
            found = network(text)
            if found is None or (each.name == "deny" and allow):
                return False  # a name, `unix:`, or a range within one that was allowed before
            (allow if each.name == "allow" else deny).append(found)
        if deny:
            keys["clients"] = {"deny": deny}
        return True

    def _forward_auth(self, scope: Scope, keys: dict[str, Any]) -> bool:
        auth = scope.one("auth_request")
        if auth is None or auth.args == ["off"]:
            return True
        locations = [
            each
            for server in self._http.directives
            for each in server.block or []
            if each.name == "location" and each.block is not None
        ]
        exact = next((each for each in locations if each.args[-1:] == auth.args[:1]), None)
        # Without a location of its own, the request goes to the one with the longest prefix, which clients use as well.
        prefixes = [each for each in locations if each.args[:-1] in ([], ["^~"])]
        around = [each for each in prefixes if auth.args[0].startswith(each.args[-1]) and _is_open(each)]
        target = exact or max(around, key=lambda each: len(each.args[-1]), default=None)
        passed = next((each for each in (target.block or [] if target else []) if each.name == "proxy_pass"), None)
        found = split_url(passed.args[0]) if passed is not None and passed.args else None
        if target is None or passed is None or found is None or (exact is None and found[2]):
            return False
        if exact is not None:
            self._mark_all(target)
            target.used = True
        scheme, authority, uri = found
        inner = Scope(target.block or [], self._http)
        keys["forward_auth"] = {"service": self._service(inner, scheme, authority), "path": uri or auth.args[0]}
        return True

    def _rate(self, scope: Scope, keys: dict[str, Any]) -> None:
        limits = []
        for each in scope.all("limit_req"):
            values = dict(arg.partition("=")[::2] for arg in each.args)
            by, rate = self._zones.get(values.get("zone", ""), ("", ""))
            if by not in ("$binary_remote_addr", "$remote_addr") or not rate:
                self._skip(each, "only limits by the address of the client have a counterpart")
                continue
            burst = int(values.get("burst", "0")) + 1 if values.get("burst", "0").isdigit() else 1
            limits.append({"rate": rate, "burst": burst, "by": "address"})
            if "nodelay" not in values and "burst" in values:
                self._draft.skip(
                    each.file, each.line, each.text, "passerelle delays no requests: it is as with nodelay"
                )
        if limits:
            keys["rate_limit"] = limits if len(limits) > 1 else limits[0]
            status = scope.one("limit_req_status")
            if status is not None and status.args != ["429"]:
                self._skip(status, "passerelle responds 429")

    def _headers(self, scope: Scope, keys: dict[str, Any]) -> None:
        sent: dict[str, str] = {}
        removed: list[str] = []
        for each in scope.all("proxy_set_header"):
            name, value = each.args[0], each.args[1] if len(each.args) > 1 else ""
            if name.lower() in ("host", "x-real-ip") or value in FORWARDED.get(name.lower(), ()):
                continue
            if not value and (forbidden_request(name) is not None or name.lower().startswith("x-forwarded-")):
                continue  # those of clients are not forwarded
            if (name.lower(), value) == ("x-request-id", "$request_id"):
                continue
            why = forbidden_request(name)
            if name.lower() in FORWARDED:
                why = "the gateway sets it: it is that of the client, or of trusted_proxies"
            if value == "$scheme" and len(kinds := {each.is_tls for each in self._routed()}) == 1:
                value = "https" if kinds.pop() else "http"
            if why is not None:
                self._draft.skip(each.file, each.line, each.text, why)
            elif "$" in value:
                self._draft.skip(each.file, each.line, each.text, "its variables have no counterpart")
            elif value:
                sent[name] = value
            else:
                removed.append(name)
        rules = ({"set": sent} if sent else {}) | ({"remove": removed} if removed else {})
        if rules:
            keys["request_headers"] = rules
        added: dict[str, str] = {}
        for each in scope.all("add_header"):
            if len(each.args) < 2 or "$" in each.args[1]:
                self._draft.skip(each.file, each.line, each.text, "its variables have no counterpart")
            else:
                added[each.args[0]] = each.args[1]
        cors = cors_of(added)
        if cors:
            keys["cors"] = cors
        hidden = [each.args[0] for each in scope.all("proxy_hide_header") if each.args[0] not in added]
        rules = ({"set": added} if added else {}) | ({"remove": hidden} if hidden else {})
        if rules:
            keys["response_headers"] = rules

    def _routed(self) -> list[Listener]:
        """Return the listeners whose requests have routes."""
        return [each for each in self._listeners if each.https_redirect is None]

    def _cache(self, scope: Scope, keys: dict[str, Any]) -> None:
        cache = scope.one("proxy_cache")
        if cache is None or cache.args == ["off"]:
            return
        for name in ("proxy_no_cache", "proxy_cache_bypass"):
            for each in scope.all(name):
                if set(each.args) - {"$http_upgrade", "$http_pragma", "$http_cache_control"}:
                    self._draft.skip(each.file, each.line, each.text, NOT_STORED)
                    return
        key = scope.one("proxy_cache_key")
        selecting = key_fields(key.args[0] if key is not None and key.args else "")
        if selecting is None and key is not None:
            self._draft.skip(key.file, key.line, key.text, NOT_STORED)
            return
        times: dict[str, float] = {}
        for each in scope.all("proxy_cache_valid"):
            seconds = nginx_seconds(each.args[-1])
            if seconds is None or "any" in each.args:
                self._skip(each, "write cache.ttl_by_status")
                continue
            times |= dict.fromkeys(each.args[:-1] or ["200", "301", "302"], seconds)
        found: dict[str, Any] = {}
        if "200" in times:
            found["ttl"] = duration(times["200"])
        others = {status: duration(seconds) for status, seconds in times.items() if seconds != times.get("200")}
        if others:
            found["ttl_by_status"] = {int(status): text for status, text in others.items()}
        if selecting:
            found["vary_on"] = selecting
        keys["cache"] = found

    def _compress(self, scope: Scope, keys: dict[str, Any]) -> None:
        gzip = scope.one("gzip")
        if gzip is None or gzip.args != ["on"]:
            return
        types, least = scope.one("gzip_types"), scope.one("gzip_min_length")
        found: dict[str, Any] = {"codings": ["gzip"]}
        listed = ["text/html", *(types.args if types is not None else [])]
        if "*" not in listed:
            found["types"] = list(dict.fromkeys(listed))
        if least is not None and (bound := size(least.args[0])) is not None:
            found["min_size"] = size_text(bound)
        keys["compress"] = found


def _is_internal(location: Directive) -> bool:
    return any(each.name == "internal" for each in location.block or [])


def _is_open(location: Directive) -> bool:
    """Return whether a location states that no authorization request decides about it."""
    return any(each.name == "auth_request" and each.args == ["off"] for each in location.block or [])


def _access(scope: Scope) -> Directive | None:
    """Return a directive that decides who may use a location, and that has no counterpart; None without any.

    Modules that nginx does not have itself name theirs in the same way.
    """
    names: set[str] = set()
    around: Scope | None = scope
    while around is not None:
        names.update(each.name for each in around.directives)
        around = around.around
    for name in sorted(names):
        if name in ACCESS or (name.startswith(ACCESS_PREFIXES) and name not in NO_ACCESS):
            found = scope.find(name)
            if found is not None and found.args[:1] not in (["off"], ["all"]):
                return found
            if found is not None:
                found.used = True
    return None

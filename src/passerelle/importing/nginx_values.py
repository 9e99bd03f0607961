"""Values of nginx as passerelle writes them: addresses, paths, expressions, returns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from passerelle.importing.nginx_tree import Directive
from passerelle.importing.nginx_words import ACCESS, REDIRECTS


def is_plain(server: Directive) -> bool:
    """Return whether a server has no TLS. Those with TLS come first: clients are meant to use them."""
    listens = [each for each in server.block or [] if each.name == "listen"]
    return not any("ssl" in each.args or each.args[:1] == ["443"] for each in listens)


def listen_address(text: str) -> str | None:
    """Return the address of `listen`; None if it has no counterpart."""
    if text.startswith("unix:/"):
        return text
    if text.startswith("["):
        return text if re.fullmatch(r"\[[0-9a-fA-F:.]+\]:\d+", text) else f"{text}:80" if text.endswith("]") else None
    host, colon, port = text.rpartition(":")
    if not colon:
        host, port = ("0.0.0.0", text) if text.isdigit() else (text, "80")
    return f"{'0.0.0.0' if host == '*' else host}:{port}" if port.isdigit() else None


def patterns_of(modifier: str, path: str) -> list[str]:
    """Return the patterns of a location with this modifier and path."""
    if modifier == "=":
        return [path]
    return [f"{path.rstrip('/')}/{{rest*}}"]


def rewrite_of(prefix: str, path: str, uri: str) -> str | None:
    """Return the path that the service receives where `proxy_pass` has one (``uri``)."""
    if not uri:
        return None
    if not path.endswith("{rest*}"):
        return uri
    return f"{uri}{{rest}}" if prefix.endswith("/") else f"{uri}/{{rest}}"


def pattern_of(expression: str) -> str | None:
    """Return the path pattern of an expression such as ``^/user/([^/]+)$`` or ``^/(api|feeds)/``; None of any other.

    What is no name, and no rest of the path, becomes a constrained parameter. The check of the configuration judges
    whether its constraint can be used.
    """
    found = _read_expression(expression)
    return found[0] if found is not None else None


def _read_expression(expression: str) -> tuple[str, list[str | None]] | None:
    """Return the path pattern, and the parameter that each group of the expression captures."""
    if not expression.startswith("^/"):
        return None
    whole = expression.endswith("$") and not expression.endswith("\\$")
    steps = _steps(expression[2:-1] if whole else expression[2:])
    if steps is None:
        return None
    found: list[str] = []
    groups: list[str | None] = []
    for number, step in enumerate(steps):
        last = number == len(steps) - 1
        bare = step[1:-1] if re.fullmatch(r"\([^()]*\)", step) else step
        name = f"p{number + 1}"
        if last and (bare in (".*", ".+") or (not step and not whole)):
            found.append("{rest*}")
            groups += ["rest"] if bare != step else []
            return "/" + "/".join(found), groups
        if last and not whole:
            found += [f"{{{name}:({bare}).*}}", "{rest*}"]
            groups += [None] * (step.count("(") - step.count("\\("))
        elif bare == "[^/]+":
            found.append(f"{{{name}}}")
            groups += [name] if bare != step else []
        elif re.fullmatch(r"(?:[A-Za-z0-9_~-]|\\[.-])*", step) and (step or last):
            found.append(step.replace("\\", ""))
        elif step and not set(step) & set("{}^$") and "(?" not in step:
            found.append(f"{{{name}:{bare}}}")
            groups += [name] if bare != step else [None] * (step.count("(") - step.count("\\("))
        else:
            return None
    return "/" + "/".join(found), groups


def _steps(text: str) -> list[str] | None:
    """Return the segments of an expression; None if something in one of them matches a slash as well."""
    hidden = re.sub(r"\[\^([^\]/]*)/([^\]/]*)\]", r"[^\1\0\2]", text)  # `[^/]` and `[^-/]` match none
    for inner in re.findall(r"\[[^\]]*\]|\([^()]*\)", hidden):
        if "/" in inner or (inner.startswith("[^") and "\0" not in inner):
            return None
    *steps, last = hidden.split("/")
    if any(re.search(r"(?<!\\)\.[*+?{]", step) for step in (*steps, last if last not in _RESTS else "")):
        return None
    return [step.replace("[^\0]", "[^/]").replace("\0", "") for step in (*steps, last)]


_RESTS = (".*", ".+", "(.*)", "(.+)")


def template_of(rewrite: Directive, path: str) -> str | None:
    """Return the path that `rewrite` makes of ``path``; None unless its expression is that of the location."""
    found = _read_expression(rewrite.args[0]) if len(rewrite.args) > 1 else None
    if found is None or found[0] != path or rewrite.args[2:] not in (["break"], ["last"]):
        return None
    groups = found[1]
    parts = re.split(r"\$(\d)", rewrite.args[1])
    for index in range(1, len(parts), 2):
        number = int(parts[index])
        name = groups[number - 1] if 1 <= number <= len(groups) else None
        if name is None:
            return None
        parts[index] = f"{{{name}}}"
    text = "".join(parts)
    return None if set(text) & {"$", "?"} else text


_CORS = {
    "access-control-allow-origin": "origins",
    "access-control-allow-methods": "methods",
    "access-control-allow-headers": "headers",
    "access-control-expose-headers": "expose",
}


def cors_of(added: dict[str, str]) -> dict[str, Any]:
    """Take the fields of CORS out of those that a location adds, and return `cors` of the route."""
    found: dict[str, Any] = {}
    values = {name.lower(): added.pop(name) for name in list(added) if name.lower().startswith("access-control-")}
    for name, key in _CORS.items():
        listed = [part.strip() for part in values.get(name, "").split(",") if part.strip()]
        if listed:
            found[key] = listed
    if values.get("access-control-allow-credentials", "").lower() == "true" and found.get("origins") != ["*"]:
        found["credentials"] = True
    if (age := values.get("access-control-max-age", "")).isdigit() and int(age):
        found["max_age"] = f"{age}s"
    return found if "origins" in found else {}


_KEY_VARIABLES = re.compile(r"\$(?:\w+|\{\w+\})").findall
_OF_ANY_KEY = frozenset(
    {
        *("scheme", "proxy_host", "host", "http_host", "server_name", "uri", "document_uri", "request_uri", "is_args"),
        *("args", "query_string", "request_method", "proxy_port"),
    }
)


def key_fields(key: str) -> list[str] | None:
    """Return the fields of a key of `proxy_cache_key`, beside what any key has; None if it has anything else."""
    fields = []
    for variable in _KEY_VARIABLES(key):
        name = variable.strip("${}")
        if name.startswith("http_") and name not in _OF_ANY_KEY and name != "http_cookie":
            fields.append("-".join(part.capitalize() for part in name.removeprefix("http_").split("_")))
        elif name not in _OF_ANY_KEY:
            return None
    return fields


def split_url(text: str) -> tuple[str, str, str] | None:
    """Return scheme, authority and path of `proxy_pass`; None with variables."""
    match = re.fullmatch(r"(https?)://(unix:[^:\s]+:?|[^/\s]+)(/\S*)?", text)
    if match is None or set(text) & {"$", "?", "#"}:
        return None
    return match[1], match[2], match[3] or ""


def target_url(scheme: str, authority: str) -> str:
    """Return the URL of a target."""
    if authority.startswith("unix:"):
        return authority.rstrip(":")
    return f"{scheme}://{authority}"


def returned_action(directive: Directive, path: str) -> dict[str, Any] | None:
    """Return the action of `return`; None if it has no counterpart."""
    status = int(directive.args[0]) if directive.args and directive.args[0].isdigit() else 302
    text = directive.args[-1] if len(directive.args) > 1 or not directive.args[0].isdigit() else ""
    if status in REDIRECTS and text:
        return _redirect(status, text, path)
    if status in (206, 304, 444) or not 200 <= status <= 599 or "$" in text:
        return {"respond": 403} if status == 444 else None
    return {"respond": {"status": status, "body": text} if text else status}


def _redirect(status: int, text: str, path: str) -> dict[str, Any] | None:
    keeps = text.endswith("$is_args$args")
    text = text.removesuffix("$is_args$args")
    match = re.fullmatch(
        r"(?:(https?|\$scheme)://([^/$]+|\$(?:host|server_name|http_host)))?(/?[^$]*)?(\$request_uri|\$uri)?", text
    )
    if match is None or not text:
        return None
    scheme, host, literal, rest = match.groups()
    found: dict[str, Any] = {"status": status}
    if scheme and scheme != "$scheme":
        found["scheme"] = scheme
    if host and not host.startswith("$"):
        found["host"] = host
    if rest and literal:
        return None
    if literal and literal != "/":
        target, question, _ = literal.partition("?")
        if question:
            return None
        found["path"] = target
        if not keeps:
            found["query"] = "drop"
    elif literal == "/" or (not rest and scheme):
        found["path"], found["query"] = "/", "drop"
    return {"redirect": found}


def pairs(directives: Sequence[Directive]) -> list[tuple[str, str]]:
    """Return the first two parameters of each directive."""
    return [(each.args[0], each.args[1] if len(each.args) > 1 else "") for each in directives if each.args]


def refuses(condition: Directive | None) -> bool:
    """Return whether a condition keeps some clients or requests out."""
    return any(
        each.name in ("deny", *ACCESS) or (each.name == "return" and each.args[:1] and each.args[0][:1] in "45")
        for each in (condition.block or [] if condition is not None else [])
    )

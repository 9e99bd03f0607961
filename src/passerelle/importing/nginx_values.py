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
    """Return the address of `listen`; None for a Unix socket, and for IPv6 beside IPv4."""
    if text.startswith(("unix:", "[")):
        return None
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
    """Return the path pattern of a simple expression, such as ``^/user/([^/]+)$``; None of any other."""
    if not (expression.startswith("^/") and expression.endswith("$")):
        return None
    found = []
    steps = expression[2:-1].split("/") if "[^/]" not in expression else _steps(expression[2:-1])
    for number, step in enumerate(steps):
        last = number == len(steps) - 1
        bare = step[1:-1] if step.startswith("(") and step.endswith(")") else step
        if bare == "[^/]+":
            found.append(f"{{p{number + 1}}}")
        elif bare in (".*", ".+") and last:
            found.append("{rest*}")
        elif re.fullmatch(r"(?:[A-Za-z0-9_~-]|\\[.-])*", step) and (step or last):
            found.append(step.replace("\\", ""))
        else:
            return None
    return "/" + "/".join(found)


def _steps(text: str) -> list[str]:
    return text.replace("[^/]", "[^\0]").replace("/", "\n").replace("[^\0]", "[^/]").split("\n")


def template_of(rewrite: Directive, path: str) -> str | None:
    """Return the path that `rewrite` makes of ``path``; None unless its expression is that of the location."""
    if len(rewrite.args) < 2 or pattern_of(rewrite.args[0]) != path or rewrite.args[2:] not in (["break"], ["last"]):
        return None
    names = re.findall(r"\{(\w+)\*?\}", path)
    parts = re.split(r"\$(\d)", rewrite.args[1])
    for index in range(1, len(parts), 2):
        number = int(parts[index])
        if not 1 <= number <= len(names):
            return None
        parts[index] = f"{{{names[number - 1]}}}"
    text = "".join(parts)
    return None if set(text) & {"$", "?"} else text


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

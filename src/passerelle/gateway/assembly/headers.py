"""Builds header rules and compression rules from the configuration."""

from __future__ import annotations

from collections.abc import Mapping

from passerelle.config.models.compress import Compress
from passerelle.config.models.config import Config, Route
from passerelle.config.models.headers import Cors as CorsSettings
from passerelle.config.models.headers import (
    RequestChanges,
    RequestHeaders,
    RequestWhen,
    ResponseChanges,
    ResponseWhen,
    SecurityHeaders,
)
from passerelle.errors import CannotStart
from passerelle.gateway.response_headers import _ACCESS_CONTROL, ConditionalHeaderRules, ResponseHeaderRules
from passerelle.gateway.reverse_rewriting import ReverseRewriting, RewritingHeaderRules
from passerelle.http import content_coding
from passerelle.http.content_coding import CodingRule
from passerelle.security.conditional_headers import (
    ConditionalRequestRules,
    HeadCondition,
    RequestEdit,
    ResponseEdit,
)
from passerelle.security.cors import CorsPolicy
from passerelle.security.header_rules import RequestHeaderRules, SecurityHeaderFields, StrippedPrefixRules


def rule_of(config: Compress | None) -> CodingRule | None:
    """Build the compression rule of a route, or None.

    :raises CannotStart: if the configuration names a coding that is not installed.
    """
    if config is None:
        return None
    codings = tuple(name.encode() for name in config.codings)
    missing = [name.decode() for name in codings if name not in content_coding.AVAILABLE]
    if missing and "codings" in config.model_fields_set:
        raise CannotStart(f"compress: {', '.join(missing)} not installed; it comes with passerelle[compression]")
    types = frozenset(text.encode() for text in config.types) if config.types is not None else None
    return CodingRule(tuple(name for name in codings if name in content_coding.AVAILABLE), config.min_size, types)


def response_header_rules(
    config: Config, route: Route | None, *, preflight: bool = False
) -> ResponseHeaderRules | None:
    """Build the response header rules of ``route`` (None: of requests that match no route), or None without any.

    With ``preflight``, they are for responses to preflights, which have CORS fields already.
    """
    security_headers = _security_headers(config.security_of(route))
    rules = route.response_headers if route is not None else None
    cors = _cors(route) if route is not None and not preflight else None
    request_id = config.request_id_in_responses
    hides_timing = config.debug is not None
    rewriting = _reverse_rewriting(config, route) if route is not None and not preflight else None
    if security_headers is None and rules is None and cors is None and not (request_id or hides_timing or rewriting):
        return None
    strip: list[bytes] = list(_ACCESS_CONTROL) if cors is not None else []
    added = b""
    if rules is not None:
        strip += [name.encode("ascii") for name in (*rules.remove, *rules.set)]
        added = _lines(rules)
    if security_headers is not None and security_headers[1]:
        strip += security_headers[0].names
    fields = security_headers[0] if security_headers is not None else None
    if rules is not None and (rules.when or rules.default):
        own = [name for name in strip if name.decode("ascii") not in (*rules.remove, *rules.set)]
        first = (own, b"", None, None, False, hides_timing)
        before = ResponseHeaderRules(*first) if rewriting is None else RewritingHeaderRules(rewriting, *first)
        edits = [_response_edit(None, rules), *(_response_edit(_condition(each), each) for each in rules.when)]
        return ConditionalHeaderRules(before, edits, ResponseHeaderRules([], b"", fields, cors, request_id))
    settings = (strip, added, fields, cors, request_id, hides_timing)
    return ResponseHeaderRules(*settings) if rewriting is None else RewritingHeaderRules(rewriting, *settings)


def _condition(rule: RequestWhen | ResponseWhen) -> HeadCondition:
    """Build the condition of a conditional rule."""
    statuses = [status.encode("ascii") for status in rule.status] if isinstance(rule, ResponseWhen) else []
    names = ([name.encode("ascii") for name in found] for found in (rule.present, rule.absent, rule.content_type))
    return HeadCondition(statuses, *names, aliases=isinstance(rule, RequestWhen))


def _response_edit(condition: HeadCondition | None, rules: ResponseChanges) -> ResponseEdit:
    strip = [name.encode("ascii") for name in (*rules.remove, *rules.set)]
    return ResponseEdit(condition, strip, _lines(rules), _encoded(rules.default))


def _reverse_rewriting(config: Config, route: Route) -> ReverseRewriting | None:
    """Build what rewrites the responses on ``route``, or None."""
    if not route.rewrite_response or route.service is None:
        return None
    service = config.services[route.service]
    # The sides of a split have the same path (see config/checks/upstream.py), and hosts of their own.
    sides = [service, *(config.services[name] for name in (route.split.weights if route.split is not None else ()))]
    authorities = [side.host_name for side in sides if side.host_name is not None]
    targets = [target for side in sides for target in side.all_targets]
    for url in (target.url for target in targets if target.url is not None and not target.url.is_socket):
        authorities.append(str(url))
        if url.port == (443 if url.secure else 80):
            authorities.append(str(url).rpartition(":")[0])
    prefix, path = route.prefix.rstrip("/").encode("ascii"), service.path.encode("ascii")
    return ReverseRewriting(prefix, path, [each.lower().encode("ascii") for each in authorities])


def request_rules(config: Config, route: Route) -> RequestHeaderRules | None:
    """Build the rules for the header fields of requests to services, or None.

    With ``rewrite_response``, the prefix is added to responses. Applications of `app` build their links with the prefix
    that they receive, so that they receive none on such a route: their links would have it twice.
    """
    rules = _request_rules(route.request_headers)
    prefix = route.prefix
    if route.rewrite_response and route.service is not None and config.services[route.service].app is not None:
        prefix = ""
    return StrippedPrefixRules(prefix.encode("ascii"), rules) if prefix else rules


def _request_rules(settings: RequestHeaders | None) -> RequestHeaderRules | None:
    if settings is None:
        return None
    if not settings.when and not settings.default:
        return _plain_rules(settings)
    edits = [RequestEdit(None, _plain_rules(settings), _encoded(settings.default))]
    edits += [RequestEdit(_condition(each), _plain_rules(each), _encoded(each.default)) for each in settings.when]
    return ConditionalRequestRules(edits)


def _plain_rules(rules: RequestChanges) -> RequestHeaderRules:
    remove = [name.encode("ascii") for name in rules.remove]
    return RequestHeaderRules(_encoded(rules.set), _encoded(rules.add), remove)


def _encoded(fields: Mapping[str, str]) -> dict[bytes, bytes]:
    return {name.encode("ascii"): value.encode("ascii") for name, value in fields.items()}


def _lines(rules: ResponseChanges) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in (*rules.set.items(), *rules.add.items())).encode("ascii")


def _security_headers(settings: SecurityHeaders | None) -> tuple[SecurityHeaderFields, bool] | None:
    """Build the security headers, and whether they override those of the service; None without any."""
    if settings is None:
        return None
    configured = (
        ("X-Content-Type-Options", settings.content_type_options),
        ("X-Frame-Options", settings.frame_options),
        ("Referrer-Policy", settings.referrer_policy),
        ("Cross-Origin-Opener-Policy", settings.opener_policy),
        ("Cross-Origin-Resource-Policy", settings.resource_policy),
        ("Content-Security-Policy", settings.content_security_policy),
        ("Permissions-Policy", settings.permissions_policy),
    )
    fields = [(name.encode("ascii"), value.encode("ascii")) for name, value in configured if value != "off"]
    hsts = None if settings.hsts == "off" else settings.hsts.encode("ascii")
    return SecurityHeaderFields(fields, hsts), settings.override


def _cors(route: Route) -> CorsPolicy | None:
    settings: CorsSettings | None = route.cors
    if settings is None:
        return None
    methods = route.accepted
    if settings.methods is not None:
        methods = frozenset(method.encode("ascii") for method in settings.methods)
    return CorsPolicy(
        [origin.encode("ascii") for origin in settings.origins],
        methods,
        None if "*" in settings.headers else [name.encode("ascii") for name in settings.headers],
        [name.encode("ascii") for name in settings.expose],
        credentials=settings.credentials,
        max_age=int(settings.max_age),
    )

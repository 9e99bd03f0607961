"""The warning about HTTP-01 without a listener that speaks plain HTTP."""

from __future__ import annotations

import pytest

from passerelle.config import inspect_text

TEXT = """
listen: [%s]
tls: {auto: {challenge: %s}}
services: {u: {targets: ["http://127.0.0.1:5001"]}}
routes: [{path: /, host: www.example.com, service: u}]
"""


@pytest.mark.parametrize(
    ("listen", "challenge", "warned"),
    [
        ('"0.0.0.0:443"', "http-01", True),
        ('"0.0.0.0:443"', "tls-alpn-01", False),
        ('"0.0.0.0:443", {address: "0.0.0.0:80", https_redirect: 308}', "http-01", False),
        ('"0.0.0.0:443", {address: "0.0.0.0:80", tls: false}', "http-01", False),
    ],
)
def test_http_01_needs_a_plain_listener(listen: str, challenge: str, warned: bool) -> None:
    report = inspect_text(TEXT % (listen, challenge), "gateway.yaml", {})
    assert report.errors == ()
    assert any("no listener speaks it" in str(each) for each in report.warnings) is warned

"""The certificate of the listener in programs that order none, where the gateway does (``tls.auto``)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from passerelle.config.models.config import Config
from passerelle.export.coverage import Lost

CERTBOT: Final = Path("/etc/letsencrypt/live")

LOST: Final = Lost("the target orders no certificates; have an ACME client such as certbot order them there")


def listener_pair(config: Config) -> tuple[Path, Path]:
    """Return the files of the certificate and its key; those of certbot where the gateway orders certificates."""
    tls = config.tls
    if tls is not None and tls.pair is not None:
        return tls.pair
    folder = CERTBOT / next(iter(config.ordered_names), "gateway")
    return folder / "fullchain.pem", folder / "privkey.pem"

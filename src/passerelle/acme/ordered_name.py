"""One name that certificates are ordered for: what is kept about it, and when an order is due."""

from __future__ import annotations

import contextlib
import ssl

from passerelle.acme import issued
from passerelle.acme.schedule import LONGEST_WAIT, renewal_time
from passerelle.acme.store import Kept
from passerelle.http1.tls_bundle import load_bundle


class OrderedName:
    """One name: what is kept about it, and what its certificate contains, if it has one."""

    def __init__(self, name: str, kept: Kept) -> None:
        self.name = name
        self.kept = Kept()
        self.certificate: issued.Issued | None = None
        self.adopt(kept)

    def adopt(self, kept: Kept) -> None:
        """Replace what is kept. A certificate that is damaged, or without its key, counts as none."""
        is_new = kept.bundle != self.kept.bundle
        self.kept = kept
        if is_new:
            self.certificate = None
            if kept.bundle is not None:
                with contextlib.suppress(ValueError, IndexError, OSError):
                    load_bundle(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), kept.bundle)
                    self.certificate = issued.inspect(kept.bundle)

    @property
    def renew_at(self) -> float:
        """When the certificate is to be replaced; 0 without one."""
        found = self.certificate
        return renewal_time(self.name, found.start, found.end) if found is not None else 0.0

    def is_due(self, now: float, directory: str) -> bool:
        """Whether a certificate is to be ordered now from the authority at ``directory``."""
        attempt = self.kept.attempt
        # A time that is too far away is from a clock that was wrong.
        waits = now < attempt.next_at < now + LONGEST_WAIT * 1.1
        return not waits and (now >= self.renew_at or attempt.directory != directory)

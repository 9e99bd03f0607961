"""Orders: one account with an authority, and one certificate after the other (RFC 8555), by the package ``acme``.

Everything here blocks, and runs in a thread.
"""

from __future__ import annotations

import datetime
import json
import ssl
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, cast

import requests
from acme import challenges, client, errors, messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from josepy.jwa import ES256
from josepy.jwk import JWK, JWKEC
from josepy.util import ComparableECKey

from passerelle import __version__
from passerelle.acme import issued
from passerelle.acme.challenge import TLS, Pending, pending
from passerelle.acme.failure import OrderFailed
from passerelle.acme.settings import Authority
from passerelle.http1.tls_bundle import load_bundle

TIMEOUT = 20  # seconds for one request to the authority
DEADLINE = 90  # seconds for the authority to validate a name, and again to issue the certificate
_NONCES = 3  # refused pairs of nonces before an order fails
_CURVES: dict[str, type[ec.EllipticCurve]] = {"p256": ec.SECP256R1, "p384": ec.SECP384R1}
_PEM = serialization.Encoding.PEM


class _TlsAlpnResponse(challenges.KeyAuthorizationChallengeResponse):
    typ = TLS


class _TlsAlpn(challenges.KeyAuthorizationChallenge):
    """The challenge of RFC 8737, which the package leaves to its users."""

    response_cls = _TlsAlpnResponse
    typ = TLS

    def validation(self, account_key: JWK, **kwargs: Any) -> str:
        return self.key_authorization(account_key)


challenges.ChallengeResponse.register(_TlsAlpnResponse)
challenges.Challenge.register(_TlsAlpn)


class _Network(client.ClientNetwork):
    """Notes the ``Retry-After`` (seconds) of the last response that refused a request.

    Sends a request again while the authority refuses its nonce (RFC 8555 §6.5), which the package does once.
    """

    retry_after: float | None = None

    def post(self, *args: Any, **kwargs: Any) -> requests.Response:
        for _ in range(_NONCES):
            try:
                return super().post(*args, **kwargs)
            except messages.Error as error:
                if error.code != "badNonce":
                    raise
        return super().post(*args, **kwargs)

    def _send_request(self, method: str, url: str, *args: Any, **kwargs: Any) -> requests.Response:
        self.retry_after = None
        response = super()._send_request(method, url, *args, **kwargs)
        if not response.ok:
            self.retry_after = _seconds(response.headers.get("Retry-After"))
        return response


def order(
    authority: Authority,
    account: bytes | None,
    save_account: Callable[[bytes], None],
    name: str,
    key_type: str,
    kind: str,
    publish: Callable[[list[Pending]], None],
) -> bytes:
    """Order a certificate for ``name`` with a new key, and return the key, the certificate and its chain in PEM.

    ``account`` is what ``save_account`` was called with before. ``publish`` returns once all gateways respond to the
    pending challenge of ``kind``.

    :raises OrderFailed: if there is no certificate, for whatever reason.
    """
    network: _Network | None = None
    try:
        known = json.loads(account) if account is not None else None
        binding = authority.binding[0] if authority.binding is not None else None
        if known is not None and known.get("binding") != binding:
            known = None
        key = _load_key(known["key"]) if known is not None else ec.generate_private_key(ec.SECP256R1())
        network = _Network(
            JWKEC(key=ComparableECKey(key)),
            alg=ES256,
            # The package passes this to requests, where it may be a path.
            verify_ssl=cast(Any, str(authority.ca)) if authority.ca is not None else True,
            user_agent=f"passerelle/{__version__}",
            timeout=TIMEOUT,
        )
        acme = client.ClientV2(client.ClientV2.get_directory(authority.directory, network), network)
        if known is None or not _is_known(acme, known["uri"], known.get("contact"), authority.contact):
            uri = _register(acme, authority)
            text = {"key": _private(key).decode(), "uri": uri, "contact": authority.contact, "binding": binding}
            save_account(json.dumps(text).encode())
        return _issue(acme, name, key_type, kind, publish)
    except OrderFailed:
        raise
    except Exception as error:
        # What the package raises for a wrong response is anything: KeyError, AttributeError, errors of josepy.
        raise _failure(error, network) from error
    finally:
        if network is not None:
            network.session.close()


def _is_known(acme: client.ClientV2, uri: str, contact: object, wanted: tuple[str, ...]) -> bool:
    """Use the account ``uri``; return False if the authority has it no longer, or ``contact`` has changed."""
    acme.net.account = messages.RegistrationResource(body=messages.Registration(), uri=uri)
    if contact != list(wanted):
        return False
    try:
        acme.net.post(uri, None, new_nonce_url=acme.directory["newNonce"])
    except messages.Error as error:
        if error.code != "accountDoesNotExist":
            raise
        return False
    return True


def _register(acme: client.ClientV2, authority: Authority) -> str:
    """Make an account, or find that of the key, and return its URI. Its contact becomes that of ``authority``."""
    acme.net.account = None
    bound: dict[str, Any] = {}
    if authority.binding is not None and acme.net.key is not None:
        made = messages.ExternalAccountBinding.from_data(acme.net.key.public_key(), *authority.binding, acme.directory)
        bound = {"external_account_binding": made}
    contact = tuple(f"mailto:{each}" for each in authority.contact)
    wanted = messages.NewRegistration.from_data(terms_of_service_agreed=True, contact=contact, **bound)
    try:
        return str(acme.new_account(wanted).uri)
    except errors.ConflictError as known:
        account = messages.RegistrationResource(body=messages.Registration(), uri=known.location)
        acme.net.account = account
        acme.update_registration(account, messages.Registration(contact=contact))
        return str(known.location)


def _issue(
    acme: client.ClientV2, name: str, key_type: str, kind: str, publish: Callable[[list[Pending]], None]
) -> bytes:
    key = _new_key(key_type)
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    placed = acme.new_order(request.public_bytes(_PEM))
    deadline = datetime.datetime.now() + datetime.timedelta(seconds=DEADLINE)
    try:
        for authorization in placed.authorizations:
            if authorization.body.status == messages.STATUS_PENDING:
                _prove(acme, authorization.body, name, kind, publish)
        valid = acme.poll_authorizations(placed, deadline)
    finally:
        publish([])
    found = acme.finalize_order(valid, datetime.datetime.now() + datetime.timedelta(seconds=DEADLINE))
    bundle = _private(key) + (found.fullchain_pem or "").encode()
    _check(bundle, key, name)
    return bundle


def _prove(
    acme: client.ClientV2,
    authorization: messages.Authorization,
    name: str,
    kind: str,
    publish: Callable[[list[Pending]], None],
) -> None:
    found = [each for each in authorization.challenges if each.chall.typ == kind]
    if not found or acme.net.key is None:
        offered = ", ".join(sorted({each.chall.typ for each in authorization.challenges})) or "none"
        raise OrderFailed(f"the authority does not offer the challenge {kind} for {name}; it offers {offered}")
    response, proof = found[0].chall.response_and_validation(acme.net.key)
    publish([pending(kind, name, found[0].chall.encode("token"), proof)])
    acme.answer_challenge(found[0], response)


def _check(bundle: bytes, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, name: str) -> None:
    """Check that the authority has issued what was ordered. :raises OrderFailed: if not."""
    try:
        certificate = x509.load_pem_x509_certificates(bundle)[0]
        what = issued.inspect(bundle)
    except (ValueError, IndexError):
        raise OrderFailed("the authority has sent no certificate") from None
    if certificate.public_key() != key.public_key():
        raise OrderFailed("the authority has issued a certificate for another key")
    if name not in issued.names(bundle):
        raise OrderFailed(f"the authority has issued a certificate that is not for {name}")
    if not what.start < what.end or what.end <= time.time():
        raise OrderFailed("the authority has issued a certificate that has expired")
    try:
        load_bundle(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), bundle)
    except ssl.SSLError as error:
        raise OrderFailed(f"the certificate cannot be used: {error.reason}") from error


def _failure(error: Exception, network: _Network | None) -> OrderFailed:
    """Describe what went wrong between the gateway and the authority."""
    retry_after = network.retry_after if network is not None else None
    if isinstance(error, messages.Error):
        code = error.code or "error"
        text = f"the authority refuses ({code}): {error.detail or error.description or ''}"
        is_limited = code == "rateLimited" or retry_after is not None
        return OrderFailed(text, retry_after, concerns="account" if is_limited else "name")
    if isinstance(error, errors.ValidationError):
        causes = [
            f"{each.chall.typ}: {each.error.detail}"
            for authorization in error.failed_authzrs
            for each in authorization.body.challenges
            if each.error is not None
        ]
        return OrderFailed(f"the authority could not validate the name: {'; '.join(causes)}", retry_after)
    if isinstance(error, errors.TimeoutError):
        return OrderFailed(f"the authority was not done after {DEADLINE} s", retry_after)
    if isinstance(error, requests.exceptions.SSLError):
        return OrderFailed(f"cannot connect to the authority: {_root(error)}", concerns="connection")
    if isinstance(error, requests.exceptions.Timeout):
        return OrderFailed(f"the authority did not respond within {TIMEOUT} s", concerns="connection")
    if isinstance(error, requests.exceptions.RequestException | OSError) and not isinstance(error, ValueError):
        return OrderFailed(f"cannot reach the authority: {_root(error)}", concerns="connection")
    text = f"unexpected response of the authority ({type(error).__name__}): {error}"
    return OrderFailed(text, retry_after, concerns="account" if retry_after is not None else "name")


def _root(error: BaseException) -> str:
    """Return the words of the innermost cause of an error of requests."""
    seen: BaseException = error
    while True:
        inner = getattr(seen, "reason", None)
        following = inner if isinstance(inner, BaseException) else seen.__cause__ or seen.__context__
        if following is None or following is seen:
            break
        seen = following
    if isinstance(seen, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {seen.verify_message}"
    return seen.strerror if isinstance(seen, OSError) and seen.strerror else str(seen) or type(seen).__name__


def _seconds(value: str | None) -> float | None:
    """Return the seconds that a ``Retry-After`` states (RFC 9110 §10.2.3); None without a usable one."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value.strip()[:9])
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def _new_key(key_type: str) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    if key_type in _CURVES:
        return ec.generate_private_key(_CURVES[key_type]())
    return rsa.generate_private_key(65537, int(key_type.removeprefix("rsa")))


def _private(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _load_key(pem: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the key of the account is of another kind")
    return key

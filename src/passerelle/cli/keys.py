"""``passerelle keys``: manage API keys."""

from __future__ import annotations

import hashlib
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from passerelle.cli.support import Commands, exit_negative, json_option, print_json, print_table, read_config

if TYPE_CHECKING:
    from passerelle.config.models.config import Config
    from passerelle.security.credentials.api_keys import ApiKey, KeyStore

_SPAN = re.compile(r"(\d{1,6})(s|m|h|d)", re.ASCII).fullmatch
_REDIS_LIMIT = 5.0  # seconds for Redis to reply
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.group(cls=Commands, short_help="Create, list, rotate, revoke and import API keys.")
def keys() -> None:
    """Create, list, rotate, revoke and import API keys.

    The keys are in the store of the configuration (`keys: {store: …}`), an SQLite file or Redis. Running gateways apply
    every change within about a second.
    """


class _Span(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.4
    name = "span"

    def __init__(self, least: int = 0) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = _SPAN(str(value))
        if match is None:
            self.fail(f"found {value!r}; allowed is a number with a unit (s, m, h, d), such as 90d", param, ctx)
        seconds = int(match[1]) * _SECONDS[match[2]]
        if seconds < self._least:
            self.fail(f"found {value!r}; allowed is {self._least}s or longer", param, ctx)
        return seconds


_config_option = click.option("-c", "--config", metavar="CONFIG", help="The configuration file.")
_expires_option = click.option(
    "--expires", type=_Span(1), metavar="SPAN", help="Validity period, such as 90d; unlimited by default."
)


class ApiKeyStore(Protocol):
    """A store of API keys; times in seconds since 1970."""

    def create(self, owner: str, scopes: Iterable[str], now: int, expires: int | None = None) -> tuple[ApiKey, str]:
        """Create a key, and return it with its secret text."""

    def rotate(self, identity: str, now: int, overlap: int, expires: int | None = None) -> tuple[ApiKey, str]:
        """Create a key that replaces the key ``identity``, which remains valid for ``overlap`` seconds."""

    def revoke(self, identity: str, now: int) -> None:
        """Revoke a key."""

    def put(self, key: ApiKey, digest: bytes) -> bool:
        """Import a key. Returns False if the store already has it."""

    def all(self) -> list[ApiKey]:
        """Return all keys."""

    def close(self) -> None:
        """Close the store."""


@contextmanager
def _store(config: str | None) -> Iterator[ApiKeyStore]:
    from passerelle.security.credentials.api_keys import UnknownKey

    read = read_config(config)
    if read.keys is None or not read.keys.has_store:
        raise click.UsageError("the configuration has no keys; add keys: {store: keys.db}")
    try:
        opened: AbstractContextManager[ApiKeyStore]
        opened = _file(read.keys.store) if isinstance(read.keys.store, Path) else _redis(read)
        with opened as store:
            yield store
    except UnknownKey as error:
        click.echo(f"there is no valid key {error.args[0]!r}", err=True)
        exit_negative()


@contextmanager
def _file(path: Path) -> Iterator[KeyStore]:
    import sqlite3

    from passerelle.security.credentials.api_keys import KeyStore

    try:
        with closing(KeyStore(path)) as store:
            yield store
    except sqlite3.Error as error:
        raise click.ClickException(f"{path}: {error}") from None


@contextmanager
def _redis(config: Config) -> Iterator[ApiKeyStore]:
    from redis import RedisError

    from passerelle.caching.redis.blocking import blocking_client
    from passerelle.security.credentials.redis_api_keys import RedisKeyStore
    from passerelle.security.credentials.redis_lookup import UNREADABLE

    assert config.redis is not None, "the configuration was checked"
    try:
        with closing(RedisKeyStore(blocking_client(config.redis.url, _REDIS_LIMIT))) as store:
            yield store
    except RedisError as error:
        # The address and not the URL, which may hold a password.
        raise click.ClickException(f"redis at {config.redis.where}: {error}") from None
    except UNREADABLE as error:
        # The reply is not valid RESP, for which the client raises errors of many types; or a stored key was altered.
        raise click.ClickException(f"redis at {config.redis.where}: a reply cannot be read: {error}") from None


def _checked(check: Callable[[str], str], text: str) -> str:
    try:
        return check(text)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


@keys.command(short_help="Create a key.")
@click.option("--owner", required=True, help="The consumer that the key identifies.")
@click.option("--scope", "scopes", multiple=True, help="A permission of the key; may be given several times.")
@_expires_option
@_config_option
@json_option
def create(owner: str, scopes: tuple[str, ...], expires: int | None, config: str | None, as_json: bool) -> None:
    """Create a key and print it. It cannot be shown again.

    \b
    Examples:
      passerelle keys create --owner mobile-app --scope orders:read --expires 90d
    """
    from passerelle.config.models.guards import check_consumer, check_scope

    owner = _checked(check_consumer, owner)
    scopes = tuple(_checked(check_scope, scope) for scope in scopes)
    now = int(time.time())
    with _store(config) as store:
        _show_new(*store.create(owner, scopes, now, now + expires if expires else None), as_json=as_json)


@keys.command("list", short_help="List the keys, the oldest first.")
@_config_option
@json_option
def list_keys(config: str | None, as_json: bool) -> None:
    """List the keys, the oldest first, without their secret texts, which are not stored."""
    now = time.time()
    with _store(config) as store:
        found = store.all()
    if as_json:
        print_json([_as_json(key, now) for key in found])
        return
    rows = [
        (
            key.id,
            key.owner,
            " ".join(key.scopes),
            key.refusal(now) or "holds",
            _time(key.created),
            _time(key.expires),
            _time(key.last_used),
        )
        for key in found
    ]
    head = ("ID", "OWNER", "SCOPES", "STATE", "CREATED", "EXPIRES", "LAST USED")
    print_table(head, rows, wrap="SCOPES")


@keys.command(short_help="Replace a key by a new one.")
@click.argument("identity", metavar="ID")
@click.option("--overlap", type=_Span(), default="24h", show_default=True, help="How long the old key remains valid.")
@_expires_option
@_config_option
@json_option
def rotate(identity: str, overlap: int, expires: int | None, config: str | None, as_json: bool) -> None:
    """Create a key with the owner and scopes of the key ID. The old key remains valid for the overlap.

    \b
    Examples:
      passerelle keys rotate k3v5m2qxea --overlap 7d
    """
    now = int(time.time())
    with _store(config) as store:
        _show_new(*store.rotate(identity, now, overlap, now + expires if expires else None), as_json=as_json)


@keys.command(short_help="Revoke a key.")
@click.argument("identity", metavar="ID")
@_config_option
def revoke(identity: str, config: str | None) -> None:
    """Revoke the key ID. Running gateways refuse it within a second."""
    with _store(config) as store:
        store.revoke(identity, int(time.time()))
    click.echo(f"{identity}: revoked")


@keys.command("import", short_help="Import the keys of another file.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_config_option
def import_keys(file: Path, config: str | None) -> None:
    """Import the keys of the SQLite file FILE, for example to move them to Redis.

    Keys whose ids the store already has are not changed, and neither is FILE.

    \b
    Examples:
      passerelle keys import var/keys.db
    """
    with _file(file) as source:
        found = source.export()
    with _store(config) as store:
        imported = sum(store.put(key, digest) for key, digest in found)
    click.echo(f"imported {imported} of {len(found)} keys; the store already had {len(found) - imported}")


@keys.command(short_help="Print the SHA-256 of a key, for the file.")
def digest() -> None:
    """Print the SHA-256 of a key, for `keys: {fixed: [{sha256: …}]}` of the configuration.

    The key is asked for, or is the first line of standard input.

    \b
    Examples:
      openssl rand -hex 32 | tee key.txt | passerelle keys digest
    """
    if sys.stdin.isatty():
        text: str = click.prompt("Key", hide_input=True, err=True)
    else:
        text = sys.stdin.buffer.readline(4096).decode("ascii", "replace").strip()
    if not re.fullmatch(r"[!-~]{20,512}", text):
        raise click.UsageError("a key has 20 to 512 visible ASCII characters")
    click.echo(hashlib.sha256(text.encode("ascii")).hexdigest())


def _show_new(made: ApiKey, key: str, *, as_json: bool) -> None:
    if as_json:
        print_json({**_as_json(made, made.created), "key": key})
        return
    click.echo(key)
    until = f", until {_time(made.expires)}" if made.expires else ""
    click.echo(f"{made.id} of {made.owner}{until}. The key is not stored and cannot be shown again.", err=True)


def _as_json(key: ApiKey, now: float) -> dict[str, object]:
    return {
        "id": key.id,
        "owner": key.owner,
        "scopes": list(key.scopes),
        "state": key.refusal(now) or "holds",
        "created": _time(key.created),
        "expires": _time(key.expires) or None,
        "revoked": _time(key.revoked) or None,
        "last_used": _time(key.last_used) or None,
        "replaces": key.replaces,
    }


def _time(seconds: int | None) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)) if seconds is not None else ""

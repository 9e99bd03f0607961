"""Backups: which databases, to where, encrypted for which key, and how long they are kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator
from pydantic.json_schema import WithJsonSchema

from passerelle.config.models.base import Model, Takes
from passerelle.config.models.values import File, Name, Text, WholeNumber, parse_file
from passerelle.config.reading.wording import describe

RESERVED = ("keys", "sessions")
"""The names of the gateway's own stores in backups."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]").fullmatch
_PREFIX = re.compile(r"[A-Za-z0-9_./-]*").fullmatch
_PARAMETERS = ("host", "sslcert", "sslkey", "sslmode", "sslrootcert")


class S3Address(NamedTuple):
    """A place in a bucket; ``prefix`` has no slash at its ends."""

    bucket: str
    prefix: str


def parse_target(found: object, info: ValidationInfo) -> object:
    """Parse ``s3://bucket/prefix`` or the path of a folder."""
    if isinstance(found, str) and found.startswith("s3://"):
        bucket, _, prefix = found.removeprefix("s3://").partition("/")
        if not _BUCKET(bucket) or not _PREFIX(prefix):
            raise ValueError(f"found {describe(found)}; allowed is a folder, or s3://bucket/prefix")
        return S3Address(bucket, prefix.strip("/"))
    if isinstance(found, str) and "://" in found:
        raise ValueError(f"found {describe(found)}; allowed is a folder, or s3://bucket/prefix")
    return parse_file(found, info)


def parse_database(found: object, info: ValidationInfo) -> object:
    """Parse the path of an SQLite file, or ``postgresql://…``. Messages never show what may be a password."""
    if not isinstance(found, str) or "://" not in found:
        return parse_file(found, info)
    scheme = found.partition("://")[0]
    if scheme.startswith("sqlite"):
        raise ValueError("found an sqlite:// address; allowed is the path of the SQLite file, such as var/users.db")
    return check_postgresql(found)


def check_postgresql(text: str) -> str:
    """Check the address of a PostgreSQL database. Messages never show what may be a password."""
    allowed = "allowed is postgresql://user:password@host:port/database"
    scheme, separator, _ = text.partition("://")
    if not separator:
        raise ValueError(f"found an address without a scheme; {allowed}")
    if scheme != "postgresql":
        near = "; write postgresql://" if scheme == "postgres" or scheme.startswith("postgresql+") else ""
        raise ValueError(f"found scheme {scheme!r}; {allowed}{near}")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(f"found an address that cannot be read; {allowed}; in a password write / as %2F") from None
    if not parts.username or port == 0 or not parts.path.strip("/") or "/" in parts.path[1:] or parts.fragment:
        raise ValueError(f"found an address without user or database; {allowed}; in a password write # as %23")
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _PARAMETERS:
            raise ValueError(f"found the parameter {name!r}; allowed: {', '.join(_PARAMETERS)}")
    return text


def _own_name(name: str) -> str:
    if name in RESERVED:
        raise ValueError(f"found {name!r}, the name of the gateway's own store in backups; give it another name")
    return name


def _endpoint(text: str) -> str:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("found no http:// or https:// address of a storage, such as https://s3.example.com")
    return text


BackupTarget = Annotated[
    Path | S3Address,
    BeforeValidator(parse_target),
    WithJsonSchema({"type": "string", "examples": ["/var/backups/shop", "s3://backups/shop"]}),
    Takes("folder or `s3://bucket/prefix`"),
]

BackupDatabase = Annotated[
    Path | str,
    BeforeValidator(parse_database),
    WithJsonSchema({"type": "string", "examples": ["var/users.db", "postgresql://user@db.internal/users"]}),
]


class S3(Model):
    """The storage of `s3://` targets. What is omitted comes from `AWS_…` variables or the role of the machine."""

    endpoint: Annotated[Text, AfterValidator(_endpoint), Takes("`https://` address")] | None = Field(
        default=None, description="Address of an S3-compatible storage; by default Amazon's."
    )
    region: Text | None = Field(default=None, description="Region of the bucket.")
    access_key: Text | None = Field(default=None, description="Id of the access key.")
    secret_key: Text | None = Field(
        default=None, repr=False, description="Secret of the access key; preferably as `${file:…}`."
    )


class Keep(Model):
    """The rule of rotation; at least one number is not 0."""

    daily: Annotated[int, WholeNumber(0, 1000)] = Field(default=0, description="Days whose last backup is kept.")
    weekly: Annotated[int, WholeNumber(0, 1000)] = Field(
        default=0, description="Weeks (ISO 8601) whose last backup is kept."
    )
    monthly: Annotated[int, WholeNumber(0, 1000)] = Field(default=0, description="Months whose last backup is kept.")

    @model_validator(mode="after")
    def _keeps_something(self) -> Keep:
        if not self.daily and not self.weekly and not self.monthly:
            raise ValueError("found a rule that keeps nothing; give daily, weekly or monthly a number")
        return self


class Backup(Model):
    """What `passerelle backup` saves, besides the API keys and sessions of the gateway."""

    databases: Annotated[
        dict[Annotated[Name, AfterValidator(_own_name)], BackupDatabase],
        Takes("mapping of names to paths or `postgresql://` addresses"),
    ] = Field(default={}, repr=False, description="Databases of the services: SQLite files, or PostgreSQL.")
    to: BackupTarget | None = Field(default=None, description="Where backups are written; `--to` overrides it.")
    key_file: File | None = Field(
        default=None, description="Key file of [age](https://age-encryption.org); with it, backups are encrypted."
    )
    keep: Annotated[Keep, Takes("[mapping](#keep)")] | None = Field(
        default=None, description="Which backups are kept; by default all."
    )
    scratch: Annotated[Text, AfterValidator(check_postgresql), Takes("`postgresql://` address")] | None = Field(
        default=None,
        repr=False,
        description="A database on the server where dumps are restored to verify them; by default on the same server.",
    )
    s3: Annotated[S3, Takes("[mapping](#s3)")] | None = Field(
        default=None, description="The storage of an `s3://` target."
    )

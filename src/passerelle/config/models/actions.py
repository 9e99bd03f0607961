"""What a route does without a service: redirects, fixed responses, and files."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, model_validator

from passerelle.config.models.addresses import HOST
from passerelle.config.models.base import Model, Takes
from passerelle.config.models.guards import OneOrMore
from passerelle.config.models.headers import ResponseName, Value
from passerelle.config.models.values import File, PlainPath, TemplateText, Text, WholeNumber
from passerelle.config.reading.wording import describe

_NAME = r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*"
_TRY_FILE = re.compile(rf"\{{path\}}(?:\.?{_NAME})?(?:/{_NAME})*").fullmatch
_CODINGS = ("br", "zstd", "gzip")
_URL = re.compile(r"(https?)://([^/?#]*)(/.*)?", re.DOTALL).fullmatch


def _host(text: str) -> str:
    """Check a host with an optional port."""
    name, colon, port = text.lower().rpartition(":")
    if not colon or text.endswith("]"):
        name, port = text.lower(), ""
    is_port = not colon or text.endswith("]") or (port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536)
    if not is_port or not (HOST(name) or re.fullmatch(r"\[[0-9a-f:.]+\]", name)):
        raise ValueError(f"found {text!r}; allowed is a host such as www.example.com, with or without a port")
    return text.lower()


def _body(found: object) -> object:
    if not isinstance(found, str | dict | list):
        raise ValueError(f"found {describe(found)}; allowed is text, or a mapping or a list, which become JSON")
    return found


def _status(found: object) -> int:
    status = WholeNumber(200, 599).check(found)
    if status in (206, 304):
        raise ValueError(f"found {status}, which is the response to a condition or range of the request")
    return status


RedirectHost = Annotated[
    Text, AfterValidator(_host), Field(json_schema_extra={"examples": ["www.example.com"]}), Takes("name, or name:port")
]


class Redirect(Model):
    """Where a route sends clients: what is not given stays as in the request."""

    status: Literal[301, 302, 303, 307, 308] = Field(
        default=307,
        description="`301` and `308` are permanent, so browsers remember them; `307` and `308` keep the method.",
    )
    scheme: Literal["http", "https"] | None = Field(
        default=None, description="Scheme of the new URL. A change of the scheme drops the port."
    )
    host: RedirectHost | None = Field(default=None, description="Host of the new URL, with its port if it has one.")
    www: Literal["add", "remove"] | None = Field(
        default=None, description="Adds `www.` to the host of the request, or removes it. Not with `host`."
    )
    path: TemplateText | None = Field(
        default=None, description="Path of the new URL, filled with the parameters of the route."
    )
    query: Literal["keep", "drop"] = Field(default="keep", description="What happens to the query of the request.")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, found: Any) -> Any:
        """Read a path, or a URL, in place of the mapping."""
        if isinstance(found, dict | Redirect):
            return found
        if isinstance(found, str) and found.startswith("/"):
            return {"path": found}
        parts = _URL(found) if isinstance(found, str) else None
        if parts is None:
            raise ValueError(
                f"found {describe(found)}; allowed: a path, a URL such as https://example.com/, or a mapping"
            )
        short = {"scheme": parts[1], "host": parts[2]}
        return short | {"path": parts[3]} if parts[3] else short


class Respond(Model):
    """A fixed response."""

    status: Annotated[int, BeforeValidator(_status), Takes("number, 200 to 599")] = Field(
        default=200, ge=200, le=599, description="Status of the response."
    )
    headers: Annotated[dict[ResponseName, Value], Takes("mapping of fields to values")] = Field(
        default={}, min_length=1, description="Header fields of the response."
    )
    body: Annotated[JsonValue, BeforeValidator(_body), Takes("text, or JSON")] = Field(
        default=None,
        description="Text, or a mapping or list that becomes JSON. `Content-Type` fits it unless `headers` sets one.",
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, found: Any) -> Any:
        """Read a status in place of the mapping."""
        if isinstance(found, int) and not isinstance(found, bool):
            return {"status": found}
        if not isinstance(found, dict | Respond):
            raise ValueError(f"found {describe(found)}; allowed: a status, or a mapping")
        return found


def _file_name(text: str) -> str:
    if not text or text.startswith(".") or "/" in text or "\0" in text:
        raise ValueError(f"found {text!r}; allowed is the name of a file such as index.html, not hidden")
    return text


def _try_file(text: str) -> str:
    if not _TRY_FILE(text):
        raise ValueError(f"found {text!r}; allowed is {{path}}, or {{path}} with an ending such as {{path}}.html")
    return text


def _fallback(text: str) -> str:
    if text.endswith("/") or any(name.startswith(".") for name in text.split("/")):
        raise ValueError(f"found {text!r}; allowed is the path of a file such as /index.html, not hidden")
    return text


def _codings(found: object) -> object:
    if found is True:
        return _CODINGS
    if isinstance(found, str):
        return (found,)
    if isinstance(found, list | tuple):
        return found
    raise ValueError(f"found {describe(found)}; allowed: true, or a list of {', '.join(_CODINGS)}")


FileName = Annotated[Text, AfterValidator(_file_name), Takes("file name", "file names")]
TryFile = Annotated[Text, AfterValidator(_try_file), Takes("`{path}` with an ending", "such texts")]


class Static(Model):
    """Files of a folder."""

    folder: File = Field(
        description="The folder, relative to the file. Nothing outside, no hidden file and no symbolic link is served."
    )
    index: Annotated[tuple[FileName, ...], OneOrMore] = Field(
        default=("index.html",),
        min_length=1,
        description="Files that stand for a folder: the first that exists. Folders are never listed.",
    )
    try_files: Annotated[tuple[TryFile, ...], OneOrMore] = Field(
        default=("{path}",),
        min_length=1,
        description="The files that a path stands for, the first that exists, such as `{path}` and `{path}.html`.",
    )
    fallback: Annotated[PlainPath, AfterValidator(_fallback)] | None = Field(
        default=None,
        description="The file for all other paths, with 200, except those of scripts, images and the like: 404.",
    )
    precompressed: Annotated[
        tuple[Literal["br", "zstd", "gzip"], ...],
        BeforeValidator(_codings),
        Takes("`true`, or list of `br`, `zstd`, `gzip`"),
    ] = Field(
        default=(),
        min_length=1,
        description="Codings of the compressed files beside the plain ones (`.br`, `.zst`, `.gz`), in order of "
        "preference.",
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, found: Any) -> Any:
        """Read a folder in place of the mapping."""
        if isinstance(found, str):
            return {"folder": found}
        if not isinstance(found, dict | Static):
            raise ValueError(f"found {describe(found)}; allowed: a folder, or a mapping")
        return found

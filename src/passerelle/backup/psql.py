"""The client programs of PostgreSQL: psql as a session, pg_dump and pg_restore as commands.

They come in one package and fit each other. Passwords are passed in the environment, never as arguments.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob
from typing import IO, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from passerelle.backup.errors import BackupError

_CONNECT_SECONDS = "10"
_MOST_MESSAGE = 600  # characters
_END = "-- end of reply --"


@dataclass(frozen=True, slots=True)
class Server:
    """The address of a database; ``variables`` are those of libpq and contain the password."""

    database: str
    place: str
    variables: Mapping[str, str] = field(repr=False)

    def on(self, database: str) -> Server:
        """Return the address of another database of the same server."""
        place = f"{self.place.rpartition('/')[0]}/{database}"
        return Server(database, place, {**self.variables, "PGDATABASE": database})

    @property
    def environment(self) -> dict[str, str]:
        """The environment for the programs: that of this process, with only the given variables of libpq."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return {
            **inherited,
            "PGAPPNAME": "passerelle backup",
            "PGCONNECT_TIMEOUT": _CONNECT_SECONDS,
            "LC_ALL": "C.UTF-8",
            **self.variables,
        }


def parse_url(url: str) -> Server:
    """Parse ``postgresql://user:password@host:port/database?sslmode=…``, which the configuration has checked."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    host = options.pop("host", None) or unquote(parts.hostname or "localhost")
    found = {
        "PGHOST": host,
        "PGPORT": str(parts.port or 5432),
        "PGUSER": unquote(parts.username or ""),
        "PGDATABASE": unquote(parts.path[1:]),
        **{f"PG{name.upper()}": value for name, value in options.items()},
    }
    if parts.password is not None:
        found["PGPASSWORD"] = unquote(parts.password)
    return Server(found["PGDATABASE"], f"{host}:{found['PGPORT']}/{found['PGDATABASE']}", found)


@contextlib.contextmanager
def session(server: Server, name: str) -> Iterator[Session]:
    """Open a session; the first statement fails if the connection cannot be established.

    An open transaction is rolled back at the end.
    """
    with tempfile.TemporaryFile() as errors:
        opened = Session(server, name, errors)
        try:
            yield opened
        finally:
            opened.close()


class Session:
    """A session of psql: a connection whose transaction lasts over several calls. ``errors`` receives its messages."""

    def __init__(self, server: Server, name: str, errors: IO[bytes]) -> None:
        self._name = name
        self._errors = errors
        command = [find("psql"), "-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1"]
        self._process = subprocess.Popen(  # noqa: S603 -- a program of the system, no words of others
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**server.environment, "PGCLIENTENCODING": "UTF8"},
            text=True,
            encoding="utf-8",
        )

    def execute(self, sql: str, **variables: str) -> None:
        """Execute statements that return nothing.

        psql replaces ``:'name'`` by the value of a variable as a literal, and ``:"name"`` as an identifier.

        :raises BackupError: if one fails.
        """
        self._run(sql, variables)

    def rows(self, query: str, **variables: str) -> list[dict[str, Any]]:
        """Return the rows of a query, by the names of its columns. :raises BackupError: if it fails."""
        lines = ["SELECT coalesce(jsonb_agg(to_jsonb(q)), '[]') FROM (", query, ") AS q"]
        found: list[dict[str, Any]] = json.loads(self._run("\n".join(lines), variables))
        return found

    def value(self, query: str) -> Any:
        """Return the value of a query with one row and one column, named ``value``."""
        return self.rows(query)[0]["value"]

    def server_version(self) -> str:
        """Return the version of the server, such as ``15.14``."""
        return str(self.value("SELECT pg_catalog.current_setting('server_version') AS value")).split()[0]

    def _run(self, sql: str, variables: Mapping[str, str]) -> str:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        settings = [f"\\set {name} {_set_quoted(value)}\n" for name, value in variables.items()]
        try:
            stdin.write(f"{''.join(settings)}{sql};\n\\echo {_END}\n")
            stdin.flush()
        except BrokenPipeError:
            raise self._failed() from None
        lines: list[str] = []
        for line in stdout:
            if line == f"{_END}\n":
                return "".join(lines)
            lines.append(line)
        raise self._failed()

    def _failed(self) -> BackupError:
        self._process.wait()
        return BackupError(f"{self._name}: {_message(self._errors)}")

    def close(self) -> None:
        """End the session."""
        for pipe in self._process.stdin, self._process.stdout:
            with contextlib.suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
        self._process.wait()


def run(server: Server, name: str, program: str, arguments: Sequence[str]) -> None:
    """Run pg_dump or pg_restore. :raises BackupError: if it fails, with its last messages."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(  # noqa: S603 -- a program of the system, no words of others
            [find(program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=server.environment,
        )
        try:
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        if code != 0:
            raise BackupError(f"{name}: {_message(errors) or f'{program} has failed with exit code {code}'}")


def find(program: str) -> str:
    """Return the path of a client program. :raises BackupError: if it is not installed."""
    # Debian and Ubuntu keep the newest ones here, too.
    folders = sorted(glob("/usr/lib/postgresql/*/bin"), key=_number, reverse=True)
    found = shutil.which(program) or shutil.which(program, path=os.pathsep.join(folders))
    if found is None:
        raise BackupError(f"{program} is not installed (Debian, Ubuntu: apt-get install postgresql-client)")
    return found


def _number(folder: str) -> int:
    match = re.search(r"/(\d+)/", folder)
    return int(match[1]) if match else 0


def _set_quoted(value: str) -> str:
    """Quote a value for ``\\set`` of psql, which knows escapes of C."""
    escaped = value.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"


def _message(errors: IO[bytes]) -> str:
    """Return the first messages of a program, on one line."""
    errors.seek(0)
    text = errors.read(64 * 1024).decode("utf-8", "replace")
    return " ".join(text.split())[:_MOST_MESSAGE]

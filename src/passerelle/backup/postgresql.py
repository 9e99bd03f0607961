"""PostgreSQL databases: ``pg_dump`` in its custom format, verified by restoring to a scratch database.

The dump and the description of its content are of one snapshot, which writers do not disturb.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from passerelle.backup.archive import sha256_of
from passerelle.backup.catalogue import LOCK_SECONDS, SETTINGS, content_of
from passerelle.backup.databases import Restored
from passerelle.backup.errors import BackupError
from passerelle.backup.manifest import Part, differences
from passerelle.backup.psql import Session, parse_url, run, session

_SCRATCH = "passerelle_verify"
_STALE_SECONDS = 86400
_MOST_NAME = 63  # bytes of an identifier

# Privileges and settings of a database are no part of its dump. PUBLIC has some privileges by default.
_PROPERTIES = """
SELECT 0 AS step, pg_catalog.format('REVOKE ALL ON DATABASE %I FROM PUBLIC', :'new') AS statement
UNION ALL
SELECT 1, pg_catalog.format('GRANT %s ON DATABASE %I TO %s', a.privilege_type, :'new',
       CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END)
  FROM pg_catalog.pg_database AS d,
       LATERAL pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) AS a
 WHERE d.datname = :'live'
UNION ALL
SELECT 2, pg_catalog.format('ALTER %s SET %I = %s',
       CASE WHEN s.setrole = 0 THEN pg_catalog.format('DATABASE %I', :'new')
            ELSE pg_catalog.format('ROLE %s IN DATABASE %I', s.setrole::regrole, :'new') END,
       v.name,
       CASE WHEN v.name IN ('local_preload_libraries', 'search_path', 'session_preload_libraries', 'temp_tablespaces')
            THEN v.value ELSE pg_catalog.quote_literal(v.value) END)
  FROM pg_catalog.pg_database AS d JOIN pg_catalog.pg_db_role_setting AS s ON s.setdatabase = d.oid,
       LATERAL unnest(s.setconfig) AS c,
       LATERAL (SELECT pg_catalog.split_part(c, '=', 1) AS name,
                       pg_catalog.substr(c, pg_catalog.strpos(c, '=') + 1) AS value) AS v
 WHERE d.datname = :'live'
 ORDER BY 1
"""


class PostgresDatabase:
    """The database at ``url``, named ``name`` in backups.

    Scratch databases for verification are created on the server of ``scratch``, by default on the same server. The role
    needs the right to create databases there.
    """

    engine: Final = "postgresql"

    def __init__(self, name: str, url: str, scratch: str | None = None) -> None:
        self.name = name
        self._server = parse_url(url)
        self._scratch = self._server if scratch is None else parse_url(scratch)

    @property
    def place(self) -> str:
        """Host, port and name of the database."""
        return self._server.place

    def dump(self, folder: Path) -> Part:
        """Dump the database at one moment, and describe its content at the same moment."""
        file = folder / f"{self.name}.dump"
        with self._session() as sql:
            sql.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            snapshot = sql.value("SELECT pg_catalog.pg_export_snapshot() AS value")
            options = ["--format=custom", "--compress=0", "--no-password", f"--file={file}"]
            options += [f"--snapshot={snapshot}", f"--lock-wait-timeout={LOCK_SECONDS}s"]
            run(self._server, self.name, "pg_dump", options)
            layout, tables = content_of(sql)
            (settings,) = sql.rows(
                "SELECT pg_catalog.pg_encoding_to_char(encoding) AS encoding, datcollate AS collate, datctype AS ctype"
                " FROM pg_catalog.pg_database WHERE datname = current_database()"
            )
            version = sql.server_version()
        if not tables:
            raise BackupError(f"{self.name}: {self.place} has no tables; there is nothing to back up")
        return Part(
            name=self.name,
            engine=self.engine,
            version=version,
            file=file.name,
            size=file.stat().st_size,
            sha256=sha256_of(file),
            layout=layout,
            tables=tables,
            settings=settings,
        )

    def verify(self, part: Part, folder: Path) -> None:
        """Restore the dump to a new scratch database, compare it, and drop it."""
        name = f"{_SCRATCH}_{int(time.time())}_{secrets.token_hex(4)}"
        with self._session(scratch=True) as sql:
            self._drop_stale(sql)
            self._create(sql, name, part)
            try:
                self._fill(name, part, folder, "--no-owner", "--no-privileges", scratch=True)
            finally:
                sql.execute('DROP DATABASE :"name" WITH (FORCE)', name=name)

    def exists(self) -> bool:
        """Return whether the database exists."""
        with self._maintenance() as sql:
            return self._is_known(sql)

    def restore_beside(self, part: Part, folder: Path, stamp: str) -> Restored:
        """Restore the dump, with owners and privileges, to a new database of the same server."""
        name = self._beside("restored", stamp)
        with self._maintenance() as sql:
            self._create(sql, name, part)
            try:
                self._fill(name, part, folder)
            except BaseException:
                sql.execute('DROP DATABASE :"name" WITH (FORCE)', name=name)
                raise
        return Restored(self._server.on(name).place)

    def replace(self, beside: Restored, stamp: str) -> Restored:
        """Exchange the names of two databases: sessions end, and new ones have the restored database.

        Database-wide privileges and settings are copied from the one that is replaced.
        """
        names = {"live": self._server.database}
        names |= {"new": self._beside("restored", stamp), "old": self._beside("before", stamp)}
        with self._maintenance() as sql:
            if not self._is_known(sql):
                sql.execute('ALTER DATABASE :"new" RENAME TO :"live"', **names)
                return Restored(self.place)
            for row in sql.rows(_PROPERTIES, **names):
                sql.execute(row["statement"])
            # New sessions are refused during the exchange.
            sql.execute('ALTER DATABASE :"live" ALLOW_CONNECTIONS false', **names)
            try:
                sql.rows(
                    "SELECT pg_catalog.pg_terminate_backend(pid, 5000) FROM pg_catalog.pg_stat_activity"
                    " WHERE datname = :'live' AND pid <> pg_catalog.pg_backend_pid()",
                    **names,
                )
                sql.execute(
                    'BEGIN; ALTER DATABASE :"live" RENAME TO :"old"; ALTER DATABASE :"new" RENAME TO :"live"; COMMIT',
                    **names,
                )
            except BackupError as error:
                with self._maintenance() as again:
                    again.execute('ALTER DATABASE :"live" ALLOW_CONNECTIONS true', **names)
                raise BackupError(
                    f"{error}; nothing was replaced, and the restored database is {beside.place}"
                ) from None
            sql.execute('ALTER DATABASE :"old" ALLOW_CONNECTIONS true', **names)
        return Restored(self.place, self._server.on(names["old"]).place)

    def _fill(self, name: str, part: Part, folder: Path, *options: str, scratch: bool = False) -> None:
        """Restore the dump to the empty database ``name``, and compare its content."""
        server = (self._scratch if scratch else self._server).on(name)
        # Replication must not start from a copy.
        always = ("--no-password", "--exit-on-error", "--no-publications", "--no-subscriptions", f"--dbname={name}")
        run(server, self.name, "pg_restore", [*always, *options, str(folder / part.file)])
        with self._session(name, scratch=scratch) as sql:
            wrong = differences(part, *content_of(sql))
        if wrong:
            raise BackupError(f"{self.name}: the restored database differs from the manifest: {'; '.join(wrong[:3])}")

    def _create(self, sql: Session, name: str, part: Part) -> None:
        """Create an empty database. A server of an older major version than that of the dump is refused."""
        version = sql.server_version()
        if int(version.partition(".")[0]) < int(part.version.partition(".")[0]):
            raise BackupError(
                f"{self.name} was dumped from PostgreSQL {part.version}, and the server has the older version {version}"
            )
        sql.execute(
            "CREATE DATABASE :\"name\" TEMPLATE template0 ENCODING :'encoding' LC_COLLATE :'collate' LC_CTYPE :'ctype'",
            name=name,
            **part.settings,
        )

    def _drop_stale(self, sql: Session) -> None:
        """Drop the scratch databases of runs that were killed, a day later."""
        rows = sql.rows(
            "SELECT datname AS name FROM pg_catalog.pg_database"
            " WHERE datname ~ :'pattern' AND pg_catalog.pg_has_role(datdba, 'MEMBER')",
            pattern=f"^{_SCRATCH}_[0-9]+_[0-9a-f]+$",
        )
        for row in rows:
            if int(row["name"].split("_")[2]) < time.time() - _STALE_SECONDS:
                sql.execute('DROP DATABASE IF EXISTS :"name" WITH (FORCE)', name=row["name"])

    def _beside(self, what: str, stamp: str) -> str:
        suffix = f"_{what}_{stamp.lower()}"
        name = self._server.database.encode()[: _MOST_NAME - len(suffix)].decode("utf-8", "ignore")
        return name + suffix

    def _is_known(self, sql: Session) -> bool:
        return bool(
            sql.rows("SELECT 1 FROM pg_catalog.pg_database WHERE datname = :'name'", name=self._server.database)
        )

    @contextmanager
    def _session(self, database: str | None = None, *, scratch: bool = False) -> Iterator[Session]:
        server = self._scratch if scratch else self._server
        with session(server if database is None else server.on(database), self.name) as opened:
            opened.execute(SETTINGS)
            yield opened

    def _maintenance(self) -> AbstractContextManager[Session]:
        """Open a session on another database of the server: the one to replace may be missing."""
        return self._session("postgres")

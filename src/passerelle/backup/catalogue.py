"""The content of a PostgreSQL database, to compare a restored one with: its schema, and its rows.

The schema is described by attributes of the catalogue and not by SQL text: PostgreSQL writes some expressions in
another form after they were restored, such as a list of texts in a check constraint.
"""

from __future__ import annotations

import hashlib

from passerelle.backup.manifest import Table
from passerelle.backup.psql import Session

LOCK_SECONDS = 60
"""How long a backup waits for the locks that it needs (seconds)."""

SETTINGS = f"""
SET lock_timeout = '{LOCK_SECONDS}s';
SET statement_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET row_security = off;
SET search_path = '';
SET "TimeZone" = 'UTC';
SET "DateStyle" = 'ISO, YMD';
SET "IntervalStyle" = 'postgres';
SET extra_float_digits = 3;
SET bytea_output = 'hex';
SET lc_monetary = 'C'
"""
"""Settings of sessions: the form of values as text must not depend on those of the role or the database."""

_TABLES = """
SELECT n.nspname AS schema, c.relname AS name
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend AS d
                    WHERE d.objid = c.oid AND d.classid = 'pg_catalog.pg_class'::regclass AND d.deptype = 'e')
 ORDER BY 1, 2
"""

# The sum does not depend on the order of the rows, which restoring may change.
_ROWS = """
SELECT count(*) AS rows, coalesce(sum(('x' || pg_catalog.substr(pg_catalog.encode(pg_catalog.sha256(
       pg_catalog.textsend(passerelle_row::text)), 'hex'), 1, 15))::bit(60)::bigint), 0)::text AS digest
  FROM ONLY :"schema".:"table" AS passerelle_row
"""

# Without what belongs to extensions. NOT NULL constraints are part of the columns.
_LAYOUT = """
WITH space AS (
  SELECT oid, nspname FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
), extended AS (
  SELECT classid, objid FROM pg_catalog.pg_depend WHERE deptype = 'e'
), relation AS (
  SELECT c.oid, c.relkind, c.relam, n.nspname, c.relname, pg_catalog.concat_ws('.', n.nspname, c.relname) AS name
    FROM pg_catalog.pg_class AS c JOIN space AS n ON n.oid = c.relnamespace
   WHERE NOT EXISTS (SELECT 1 FROM extended AS e
                      WHERE e.objid = c.oid AND e.classid = 'pg_catalog.pg_class'::regclass)
)
SELECT pg_catalog.concat_ws(' ', 'relation', relkind, name) AS line
  FROM relation WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
UNION ALL
SELECT pg_catalog.concat_ws(' ', 'column', r.name, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
       a.attnotnull, a.atthasdef, a.attidentity, a.attgenerated)
  FROM relation AS r JOIN pg_catalog.pg_attribute AS a ON a.attrelid = r.oid
 WHERE r.relkind IN ('r', 'p', 'v', 'm', 'f') AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT pg_catalog.concat_ws(' ', 'index', r.name, t.relname, m.amname, i.indnatts, i.indisunique, i.indisprimary,
       i.indisvalid, i.indpred IS NOT NULL, i.indexprs IS NOT NULL)
  FROM relation AS r JOIN pg_catalog.pg_index AS i ON i.indexrelid = r.oid
  JOIN pg_catalog.pg_class AS t ON t.oid = i.indrelid JOIN pg_catalog.pg_am AS m ON m.oid = r.relam
UNION ALL
SELECT pg_catalog.concat_ws(' ', 'constraint', r.name, k.conname, k.contype, k.convalidated, k.confupdtype,
       k.confdeltype, pg_catalog.cardinality(k.conkey), f.relname)
  FROM relation AS r JOIN pg_catalog.pg_constraint AS k ON k.conrelid = r.oid
  LEFT JOIN pg_catalog.pg_class AS f ON f.oid = k.confrelid
 WHERE k.contype <> 'n'
UNION ALL
SELECT pg_catalog.concat_ws(' ', 'trigger', r.name, t.tgname, t.tgenabled, t.tgtype)
  FROM relation AS r JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = r.oid
 WHERE NOT t.tgisinternal
UNION ALL
SELECT pg_catalog.concat_ws(' ', 'function', n.nspname, p.proname, p.prokind,
       pg_catalog.pg_get_function_identity_arguments(p.oid))
  FROM pg_catalog.pg_proc AS p JOIN space AS n ON n.oid = p.pronamespace
 WHERE NOT EXISTS (SELECT 1 FROM extended AS e WHERE e.objid = p.oid AND e.classid = 'pg_catalog.pg_proc'::regclass)
UNION ALL
SELECT pg_catalog.concat_ws(' ', 'type', n.nspname, t.typname, t.typtype, v.enumlabel,
       rank() OVER (PARTITION BY t.oid ORDER BY v.enumsortorder))
  FROM pg_catalog.pg_type AS t JOIN space AS n ON n.oid = t.typnamespace
  LEFT JOIN pg_catalog.pg_enum AS v ON v.enumtypid = t.oid
 WHERE t.typtype IN ('e', 'd')
   AND NOT EXISTS (SELECT 1 FROM extended AS e WHERE e.objid = t.oid AND e.classid = 'pg_catalog.pg_type'::regclass)
UNION ALL
SELECT pg_catalog.concat_ws(' ', 'extension', extname) FROM pg_catalog.pg_extension
"""


def content_of(session: Session) -> tuple[str, dict[str, Table]]:
    """Return the hash of the schema, and for each table the number of rows and a sum over their SHA-256.

    :raises BackupError: if the role may not read a table.
    """
    lines = sorted(row["line"] for row in session.rows(_LAYOUT))
    tables = {}
    for table in session.rows(_TABLES):
        (found,) = session.rows(_ROWS, schema=table["schema"], table=table["name"])
        tables[f"{table['schema']}.{table['name']}"] = Table(rows=found["rows"], digest=found["digest"])
    return hashlib.sha256("\n".join(lines).encode()).hexdigest(), tables

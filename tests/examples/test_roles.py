"""Roles and databases of the services on one PostgreSQL server, and the connections that they may open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from passerelle.config import load_text
from shopkit import prepare, roles
from shopkit.connections import SPARE, Capacity, Need, needs, shortage
from shopkit.settings import pool_size
from tests.examples.conftest import SHOP
from tests.support.postgresql import PostgresServer

OWN = {"USERS_DATABASE_URL": ("shop_users", "p@ss wörd'"), "PRODUCTS_DATABASE_URL": ("shop_products", "0ther one")}
ROUTES = "routes: [{path: /, service: user}]\n"


class Server:
    """The server, and how each role connects to each database."""

    def __init__(self, cluster: PostgresServer) -> None:
        self.cluster = cluster

    def url(self, role: str, password: str, database: str | None = None) -> str:
        from urllib.parse import quote

        return f"postgresql://{role}:{quote(password)}@127.0.0.1:{self.cluster.port}/{database or role}"

    def connect(self, role: str, password: str, database: str) -> psycopg.Connection:
        return psycopg.connect(self.url(role, password, database), autocommit=True)

    def query(self, text: str, *values: object) -> list[tuple[object, ...]]:
        """Run a query as the superuser."""
        with psycopg.connect(self.cluster.conninfo(), autocommit=True) as connection:
            return connection.execute(text, values).fetchall()  # type: ignore[arg-type]

    @property
    def log(self) -> str:
        return (self.cluster.folder / "log").read_text(errors="replace")


@pytest.fixture
def server(cluster: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Return the server, with the variables of the two services set; roles and databases are dropped at the end."""
    made = Server(cluster)
    monkeypatch.setenv("ADMIN_DATABASE_URL", cluster.conninfo())
    for name, (role, password) in OWN.items():
        monkeypatch.setenv(name, made.url(role, password))
    yield made
    cluster.drop(*(role for role, _ in OWN.values()))


def test_a_role_reaches_its_own_database_alone(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert roles.main([]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "users: role shop_users, database shop_users, at most 26 connections",
        "products: role shop_products, database shop_products, at most 26 connections",
    ]
    assert prepare.main(["users", "products"]) == 0
    for role, password in OWN.values():
        for _, (database, _) in OWN.items():
            if role == database:
                with server.connect(role, password, database) as connection:
                    assert connection.execute(f"SELECT count(*) > 0 FROM {role[5:]}").fetchone() == (True,)  # type: ignore[arg-type]
            else:
                with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                    server.connect(role, password, database)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            server.connect(role, "wrong", role)
    # A role has no rights beyond its database.
    assert (
        server.query(
            "SELECT rolsuper, rolcreatedb, rolcreaterole, rolbypassrls FROM pg_roles WHERE rolname LIKE 'shop\\_%%'"
        )
        == [(False, False, False, False)] * 2
    )


def test_a_second_run_applies_what_has_changed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert roles.main(["users"]) == 0
    monkeypatch.setenv("USERS_DATABASE_URL", server.url("shop_users", "new"))
    monkeypatch.setenv("DATABASE_POOL_SIZE", "1")
    assert roles.main(["users"]) == roles.main(["users"]) == 0
    server.connect("shop_users", "new", "shop_users").close()
    with pytest.raises(psycopg.OperationalError):
        server.connect("shop_users", OWN["USERS_DATABASE_URL"][1], "shop_users")
    assert server.query("SELECT rolconnlimit FROM pg_roles WHERE rolname = 'shop_users'") == [(6 + SPARE,)]


def test_the_server_refuses_more_connections_than_the_instances_need(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gateway = tmp_path / "gateway.yaml"
    gateway.write_text("services: {user: {app: 'users:app', instances: 1}}\n" + ROUTES)
    monkeypatch.setenv("DATABASE_POOL_SIZE", "1")
    assert roles.main(["users", "--gateway", str(gateway)]) == 0
    role, password = OWN["USERS_DATABASE_URL"]
    opened = [server.connect(role, password, role) for _ in range(2 + SPARE)]
    with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
        server.connect(role, password, role)
    for connection in opened:
        connection.close()


def test_too_few_connections_are_an_error_with_the_numbers(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_POOL_SIZE", "20")
    assert roles.main([]) == 1
    assert capsys.readouterr().err == (
        "244 connections are needed: users 122 (6 instances with 20 each, and 2), products 122 (6 instances with 20"
        " each, and 2); the server has 97 (max_connections 100, 3 of them reserved): raise max_connections, or run"
        " fewer instances, or set DATABASE_POOL_SIZE=7\n"
    )
    assert server.query("SELECT rolname FROM pg_roles WHERE rolname LIKE 'shop\\_%%'") == []


def test_databases_are_not_prepared_for_more_instances_than_the_server_can_serve(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert roles.main([]) == 0
    capsys.readouterr()
    assert prepare.main(["users", "products", "--no-seed", "--machines", "2"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"127.0.0.1:{server.cluster.port}: 100 connections are needed: users 50 (12 instances")
    assert "the server has 97" in error and error.endswith("or set DATABASE_POOL_SIZE=3\n")
    monkeypatch.setenv("DATABASE_POOL_SIZE", "3")
    assert prepare.main(["users", "products", "--no-seed", "--machines", "2"]) == 0


def test_connections_of_other_roles_count_where_they_are_limited(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert roles.main(["users"]) == 0
    assert roles.main(["products", "--machines", "3"]) == 1
    error = capsys.readouterr().err
    assert "74 connections are needed" in error
    assert "the server has 71 (max_connections 100, 3 of them reserved, 26 for other roles)" in error


def test_no_password_is_in_the_log_of_the_server(server: Server) -> None:
    with psycopg.connect(server.cluster.conninfo(), autocommit=True) as connection:
        connection.execute("ALTER ROLE shop SET log_statement = 'all'")
        try:
            assert roles.main([]) == 0
        finally:
            connection.execute("ALTER ROLE shop RESET log_statement")
    assert 'CREATE ROLE "shop_users"' in server.log
    assert all(password not in server.log for _, password in OWN.values())


@pytest.mark.parametrize(
    ("variable", "url", "message"),
    [
        ("USERS_DATABASE_URL", "{shop}/shop_users", "the role shop is a superuser"),
        ("USERS_DATABASE_URL", "{users}/postgres", "the database postgres belongs to the role shop, not to shop_users"),
        ("USERS_DATABASE_URL", "{users}/shop_products", "name one database; each needs its own"),
        ("USERS_DATABASE_URL", "{products}/shop_users", "name one role; each needs its own"),
        ("USERS_DATABASE_URL", "sqlite:///users.db", "must be postgresql://role:password@host/database"),
        ("USERS_DATABASE_URL", "postgresql://127.0.0.1/users", "must be postgresql://role:password@host/database"),
        ("ADMIN_DATABASE_URL", "", "set ADMIN_DATABASE_URL"),
        ("ADMIN_DATABASE_URL", "postgresql://postgres:secret@127.0.0.1:1/postgres", "Connection refused"),
        ("DATABASE_POOL_SIZE", "many", "DATABASE_POOL_SIZE: found 'many'; allowed is a number from 1 to 100"),
    ],
)
def test_wrong_settings_are_refused(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    url: str,
    message: str,
) -> None:
    host = f"@127.0.0.1:{server.cluster.port}"
    roots = {"shop": f"postgresql://shop{host}", "users": f"postgresql://shop_users:x{host}"}
    roots["products"] = f"postgresql://shop_products:x{host}"
    monkeypatch.setenv(variable, url.format(**roots))
    assert roles.main([]) == 1
    error = capsys.readouterr().err
    assert message in error and "secret" not in error and "Traceback" not in error


def test_without_any_database_there_is_nothing_to_create(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ADMIN_DATABASE_URL", "postgresql://postgres@127.0.0.1:1/postgres")
    assert roles.main([]) == 1
    assert capsys.readouterr().err.startswith("set USERS_DATABASE_URL and PRODUCTS_DATABASE_URL")


def test_a_gateway_without_the_service_and_an_invalid_one_are_refused(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = tmp_path / "gateway.yaml"
    gateway.write_text("services: {user: {app: 'users:app'}}\n" + ROUTES)
    assert roles.main(["--gateway", str(gateway)]) == 1
    assert capsys.readouterr().err == f"{gateway} runs no instances of products\n"
    gateway.write_text("services: 7\n" + ROUTES)
    assert roles.main(["--gateway", str(gateway)]) == 1
    assert capsys.readouterr().err.startswith(f"{gateway}:1:11: services: ")


@pytest.mark.parametrize(
    ("services", "machines", "expected"),
    [
        ("user: {app: 'users:app', instances: 5}, product: {app: 'products:app'}", 1, [6, 2]),
        ("user: {app: 'users:app', instances: {min: 2, max: 9}}", 1, [10]),
        ("user: {app: 'users:app', instances: 5}", 3, [18]),
        # Targets run elsewhere, once for all gateways.
        ("user: {targets: ['http://10.0.0.1:80', 'http://10.0.0.2:80']}", 3, [3]),
        ("users: {app: 'users:app'}, other: {app: 'users:build()'}, third: {app: 'x:app'}", 1, [2, 2]),
    ],
)
def test_instances_are_those_of_the_gateway_and_one_more(services: str, machines: int, expected: list[int]) -> None:
    config = load_text(
        f"services: {{{services}}}\nroutes: [{{path: /, service: {services.partition(':')[0]}}}]\n", folder=SHOP
    )
    assert [need.instances for need in needs(config, ["users", "products"], 4, machines)] == expected


def test_the_number_of_discovered_instances_must_be_stated() -> None:
    text = "services: {user: {targets: ['dns+http://user.internal:80']}}\n" + ROUTES
    config = load_text(text, folder=SHOP)
    with pytest.raises(ValueError, match="the instances of user are discovered"):
        needs(config, ["users"], 4)
    assert [need.instances for need in needs(config, ["users"], 4, 3, instances=5)] == [6]


def test_a_need_that_just_fits_is_no_shortage() -> None:
    assert shortage([Need("users", 5, 4)], Capacity(25, 3)) is None
    message = shortage([Need("users", 5, 4)], Capacity(24, 3))
    assert message is not None and message.startswith("22 connections are needed") and "DATABASE_POOL_SIZE=3" in message
    hopeless = shortage([Need("users", 50, 4)], Capacity(24, 3, 90))
    assert hopeless is not None and hopeless.endswith("raise max_connections, or run fewer instances")
    assert "the server has 0 (" in hopeless


def test_the_size_of_the_pool() -> None:
    assert pool_size({}) == pool_size({"DATABASE_POOL_SIZE": ""}) == 4
    assert pool_size({"DATABASE_POOL_SIZE": "100"}) == 100
    for wrong in ("0", "101", "-1", "4.5", "²", "10000000000000"):
        with pytest.raises(ValueError, match="DATABASE_POOL_SIZE"):
            pool_size({"DATABASE_POOL_SIZE": wrong})

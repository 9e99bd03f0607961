"""Migration and seed: complete, idempotent, atomic, and safe when many processes start at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, func, inspect, select, text
from sqlalchemy.engine import make_url

from shopkit import catalogue
from shopkit.prepare import SERVICES, alembic_config, exclusive, main, prepare
from shopkit.settings import database_url
from tests.examples.conftest import SHOP, Build

TABLES = {"users": {"users"}, "products": {"products"}, "monolith": {"users", "products"}}


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def create_and_dispose(url: str) -> Iterator[Engine]:
    engine = create_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def tables(url: str) -> set[str]:
    with connected(url) as connection:
        return set(inspect(connection).get_table_names()) - {"alembic_version", "sqlite_sequence"}


def migrate(service: str, url: str, revision: str) -> None:
    config = alembic_config(service)
    with exclusive(make_url(url)) as connection:
        config.attributes["connection"] = connection
        (command.downgrade if revision == "base" else command.upgrade)(config, revision)


class TestMigrations:
    @pytest.mark.parametrize("service", SERVICES)
    def test_up_down_and_up_again(self, empty: str, service: str) -> None:
        migrate(service, empty, "head")
        assert tables(empty) == TABLES[service]
        migrate(service, empty, "base")
        assert tables(empty) == set()
        migrate(service, empty, "head")
        assert tables(empty) == TABLES[service]

    @pytest.mark.parametrize("service", SERVICES)
    def test_they_lead_to_the_tables_that_the_code_uses(self, empty: str, service: str) -> None:
        prepare(service, empty, seeds=False)

        def ours(_object: object, name: str | None, kind: str, *_: object) -> bool:
            return kind != "table" or name in TABLES[service]

        with connected(empty) as connection:
            options = {"compare_type": True, "include_object": ours}
            context = MigrationContext.configure(connection, opts=options)
            assert compare_metadata(context, catalogue.metadata) == []

    @pytest.mark.long
    def test_the_alembic_command_works_for_each_service(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'users.db'}"
        environment = {**os.environ, "USERS_DATABASE_URL": url}
        for arguments in (["upgrade", "head"], ["current", "--check-heads"], ["check"]):
            done = subprocess.run(
                [sys.executable, "-m", "alembic", "-n", "users", *arguments],
                cwd=SHOP,
                env=environment,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
        assert tables(url) == {"users"}


class TestSeed:
    def test_the_founding_design_s_first_user_and_product(self, empty: str, build: Build) -> None:
        started = time.monotonic()
        assert prepare("monolith", empty) == 11_000
        assert time.monotonic() - started < 5
        client = build("monolith", empty).test_client()
        assert client.get("/user/1").json == {"user_id": "1", "username": "user_1", "email": "user_1@example.com"}
        assert client.get("/product/1").json == {"product_id": "1", "name": "Produit_1", "price": 19.99}
        assert client.get("/user/10000").status_code == 200
        assert client.get("/user/10001").status_code == 404
        assert client.get("/product/1000").status_code == 200
        assert client.get("/product/1001").status_code == 404
        assert client.post("/user", json={"username": "new", "email": "new@example.com"}).headers["Location"] == (
            "/user/10001"
        ), "ids go on after the seeded ones"

    def test_a_second_run_changes_nothing(self, empty: str, build: Build) -> None:
        assert prepare("users", empty) == 10_000
        client = build("users", empty).test_client()
        client.delete("/user/5")
        client.put("/user/1", json={"username": "mine", "email": "mine@example.com"})
        assert prepare("users", empty) == 0
        assert client.get("/user/5").status_code == 404
        assert client.get("/user/1").json["username"] == "mine"  # type: ignore[index]

    def test_prices_are_exact_to_the_cent(self, empty: str) -> None:
        prepare("products", empty)
        with connected(empty) as connection:
            found = connection.execute(select(catalogue.products.c.price)).scalars().all()
        assert len(found) == 1000
        assert all(price == round(price, 2) and 5.99 <= price <= 103.99 for price in found)

    def test_a_run_that_fails_leaves_nothing(self, empty: str) -> None:
        class Interrupted(Exception):
            pass

        def interrupted() -> None:
            config = alembic_config("users")
            with exclusive(make_url(empty)) as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                raise Interrupted

        with pytest.raises(Interrupted):
            interrupted()
        assert tables(empty) == set()
        assert prepare("users", empty) == 10_000


class TestNewerVersion:
    def test_a_database_from_a_newer_version_is_refused_and_unchanged(self, empty: str) -> None:
        prepare("users", empty)
        with create_and_dispose(empty) as engine, engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '0003'"))
            connection.execute(text("DELETE FROM users"))
        with pytest.raises(ValueError, match="revision 0003, and the last that this version of the shop has is 0002"):
            prepare("users", empty)
        with connected(empty) as connection:
            assert connection.execute(select(func.count()).select_from(catalogue.users)).scalar_one() == 0

    def test_the_command_names_the_service_and_changes_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        url = f"sqlite:///{tmp_path / 'products.db'}"
        monkeypatch.setenv("PRODUCTS_DATABASE_URL", url)
        assert main(["products", "--no-seed"]) == 0
        with create_and_dispose(url) as engine, engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = 'f00'"))
        capsys.readouterr()
        assert main(["products"]) == 1
        error = capsys.readouterr().err
        assert error.startswith("products: the database has revision f00, ") and "Traceback" not in error


class TestManyAtOnce:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("empty", "number"),
        [("sqlite", 3), pytest.param("postgresql", 5, marks=pytest.mark.long)],
        indirect=["empty"],
    )
    def test_several_processes_do_it_once(self, empty: str, number: int) -> None:
        environment = {**os.environ, "USERS_DATABASE_URL": empty}
        started = [
            subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "shopkit.prepare", "users"],
                cwd=SHOP,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(number)
        ]
        outputs = [process.communicate(timeout=50) for process in started]
        assert [process.returncode for process in started] == [0] * number, outputs
        assert sorted("10000 rows added" in out for out, _ in outputs) == [False] * (number - 1) + [True]
        with connected(empty) as connection:
            assert connection.execute(select(func.count()).select_from(catalogue.users)).scalar_one() == 10_000
            assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == ["0002"]


class TestCommand:
    def test_the_command_reports_its_work(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("USERS_DATABASE_URL", f"sqlite:///{tmp_path / 'users.db'}")
        assert main(["users"]) == 0
        assert capsys.readouterr().out.startswith("users: ready, 10000 rows added in ")
        assert main(["users", "--no-seed"]) == 0

    def test_a_password_is_not_printed(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("USERS_DATABASE_URL", "postgresql://shop:secret@127.0.0.1:1/shop")
        assert main(["users"]) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith("users: ") and "secret" not in captured.err + captured.out

    def test_services_do_not_share_one_database(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'one.db'}")
        with pytest.raises(SystemExit) as exited:
            main([])
        assert exited.value.code == 2
        assert "USERS_DATABASE_URL" in capsys.readouterr().err
        assert main(["products"]) == 0

    def test_an_unknown_service_is_named(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as exited:
            main(["user"])
        assert exited.value.code == 2
        assert "'user'" in capsys.readouterr().err


class TestSettings:
    def test_the_service_s_own_variable_comes_first(self) -> None:
        environ = {"USERS_DATABASE_URL": "sqlite:///a.db", "DATABASE_URL": "sqlite:///b.db"}
        assert database_url("users", environ) == "sqlite:///a.db"
        assert database_url("products", environ) == "sqlite:///b.db"

    def test_an_empty_variable_counts_as_absent(self) -> None:
        expected = f"sqlite:///{SHOP / 'var' / 'users.db'}"
        assert database_url("users", {}) == expected
        assert database_url("users", {"USERS_DATABASE_URL": "", "DATABASE_URL": ""}) == expected

    @pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
    def test_postgresql_means_psycopg_3(self, scheme: str) -> None:
        url = database_url("users", {"DATABASE_URL": f"{scheme}://shop@db/users"})
        assert url == "postgresql+psycopg://shop@db/users"

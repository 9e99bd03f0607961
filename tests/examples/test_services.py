"""HTTP interface of the three services, on SQLite and on PostgreSQL."""

from __future__ import annotations

import itertools
import json
import logging
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

ADA = {"username": "ada", "email": "ada@example.com"}
TEA = {"name": "Thé vert", "price": 4.5}
PROBLEM = "application/problem+json"


def problem(response: TestResponse, status: int) -> dict[str, Any]:
    """Return the problem details of an error with ``status``."""
    assert response.status_code == status, response.get_data(as_text=True)
    assert response.content_type == PROBLEM
    assert response.headers["Cache-Control"] == "no-store"
    document: dict[str, Any] = json.loads(response.data)
    assert document["status"] == status
    assert document["title"] and document["detail"]
    return document


def places(document: dict[str, Any]) -> set[str]:
    """Return the positions of the errors in the problem details."""
    return {error["at"] for error in document["errors"]}


def create(client: FlaskClient, path: str, body: dict[str, Any]) -> str:
    response = client.post(path, json=body)
    assert response.status_code == 201, response.get_data(as_text=True)
    return response.headers["Location"]


class TestRead:
    def test_a_user_has_its_id_as_a_string_and_nothing_else(self, users: FlaskClient) -> None:
        assert create(users, "/user", ADA) == "/user/1"
        response = users.get("/user/1")
        assert response.status_code == 200
        assert response.content_type == "application/json"
        assert response.data == b'{"user_id":"1","username":"ada","email":"ada@example.com"}'

    @pytest.mark.parametrize("price", [19.99, 0, 0.01, 5, 5.5, 99999999.99])
    def test_a_price_comes_back_as_the_same_json_number(self, products: FlaskClient, price: float) -> None:
        path = create(products, "/product", {"name": "x", "price": price})
        document = json.loads(products.get(path).data)
        assert document == {"product_id": "1", "name": "x", "price": price}
        assert isinstance(document["price"], float)

    @pytest.mark.parametrize(
        "text", ["0", "2", "01", "-1", "+1", "1.0", "1e0", "x", "%20", "1%20", "%D9%A1", "%00", "'", "9" * 18, "9" * 19]
    )
    def test_what_names_no_user_is_not_found(self, users: FlaskClient, text: str) -> None:
        create(users, "/user", ADA)
        problem(users.get(f"/user/{text}"), 404)
        problem(users.delete(f"/user/{text}"), 404)
        problem(users.put(f"/user/{text}", json=ADA), 404)

    @pytest.mark.parametrize("text", [str(2**63 - 1), str(2**63), str(2**64 + 1), "9" * 5000])
    def test_a_huge_id_is_not_found(self, users: FlaskClient, text: str) -> None:
        document = problem(users.get(f"/user/{text}"), 404)
        assert len(document["detail"]) < 100

    @pytest.mark.parametrize(
        "path", ["/", "/users", "/user/", "//user/1", "/user//1", "/user/1/", "/product/1", "/api/1/1"]
    )
    def test_no_other_path_exists(self, users: FlaskClient, path: str) -> None:
        create(users, "/user", ADA)
        problem(users.get(path), 404)

    def test_head_has_the_fields_of_get_and_no_body(self, users: FlaskClient) -> None:
        create(users, "/user", ADA)
        got, headed = users.get("/user/1"), users.head("/user/1")
        assert headed.status_code == 200
        assert headed.data == b""
        assert dict(headed.headers) == dict(got.headers)


class TestConditions:
    def test_the_etag_answers_304_until_the_user_changes(self, users: FlaskClient) -> None:
        create(users, "/user", ADA)
        tag = users.get("/user/1").headers["ETag"]
        for condition in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            response = users.get("/user/1", headers={"If-None-Match": condition})
            assert response.status_code == 304, condition
            assert response.data == b""
            assert response.headers["ETag"] == tag
            assert "Content-Type" not in response.headers
        users.put("/user/1", json={**ADA, "username": "lovelace"})
        response = users.get("/user/1", headers={"If-None-Match": tag})
        assert response.status_code == 200
        assert response.headers["ETag"] != tag

    def test_a_write_is_not_answered_304(self, users: FlaskClient) -> None:
        create(users, "/user", ADA)
        tag = users.get("/user/1").headers["ETag"]
        assert users.put("/user/1", json=ADA, headers={"If-None-Match": tag}).status_code == 200

    def test_freshness_is_left_to_the_cache(self, users: FlaskClient) -> None:
        create(users, "/user", ADA)
        response = users.get("/user/1")
        assert not {"Cache-Control", "Expires", "Last-Modified"} & set(response.headers.keys())


class TestWrite:
    def test_the_answer_to_a_creation_is_what_a_read_gives(self, users: FlaskClient) -> None:
        response = users.post("/user", json=ADA)
        assert response.status_code == 201
        location = response.headers["Location"]
        read = users.get(location)
        assert (read.data, read.headers["ETag"]) == (response.data, response.headers["ETag"])

    def test_replace_changes_all_fields_and_delete_removes(self, products: FlaskClient) -> None:
        path = create(products, "/product", TEA)
        response = products.put(path, json={"name": "Thé noir", "price": 5.25})
        assert response.status_code == 200
        assert products.get(path).data == response.data
        assert json.loads(response.data) == {"product_id": "1", "name": "Thé noir", "price": 5.25}
        gone = products.delete(path)
        assert (gone.status_code, gone.data) == (204, b"")
        problem(products.get(path), 404)
        problem(products.delete(path), 404)
        problem(products.put(path, json=TEA), 404)

    def test_a_deleted_id_is_never_given_away_again(self, users: FlaskClient) -> None:
        path = create(users, "/user", ADA)
        users.delete(path)
        assert create(users, "/user", ADA) != path

    def test_e_mail_addresses_are_one_whatever_their_case(self, users: FlaskClient) -> None:
        path = create(users, "/user", {"username": "ada", "email": "Ada@Example.COM"})
        assert json.loads(users.get(path).data)["email"] == "ada@example.com"
        document = problem(users.post("/user", json={"username": "other", "email": "ADA@example.com"}), 409)
        assert places(document) == {"/email"}

    def test_what_is_taken_conflicts(self, users: FlaskClient) -> None:
        create(users, "/user", ADA)
        second = create(users, "/user", {"username": "bob", "email": "bob@example.com"})
        assert places(problem(users.post("/user", json={**ADA, "email": "a@b.fr"}), 409)) == {"/username"}
        assert places(problem(users.put(second, json={"username": "bob", "email": ADA["email"]}), 409)) == {"/email"}
        assert json.loads(users.get(second).data)["email"] == "bob@example.com"
        assert users.put("/user/1", json=ADA).status_code == 200, "a user does not conflict with itself"

    def test_two_products_may_have_one_name(self, products: FlaskClient) -> None:
        assert create(products, "/product", TEA) != create(products, "/product", TEA)

    @pytest.mark.parametrize(
        ("body", "where"),
        [
            ({}, {"/username", "/email"}),
            ({"username": "ada"}, {"/email"}),
            ({**ADA, "admin": True}, {"/admin"}),
            ({**ADA, "user_id": "7"}, {"/user_id"}),
            ({"username": None, "email": None}, {"/username", "/email"}),
            ({"username": 1, "email": ["a@b.fr"]}, {"/username", "/email"}),
            ({"username": "", "email": ""}, {"/username", "/email"}),
            ({"username": "a b", "email": "a b@c.fr"}, {"/username", "/email"}),
            ({"username": "a" * 65, "email": "a" * 65 + "@b.fr"}, {"/username", "/email"}),
            ({"username": "a\x00", "email": "a\x00@b.fr"}, {"/username", "/email"}),
            ({"username": "ada\n", "email": "ada@example.com\n"}, {"/username", "/email"}),
            ({**ADA, "email": "ada@example"}, {"/email"}),
            ({**ADA, "email": "@example.com"}, {"/email"}),
            ({**ADA, "email": "a@" + "b." * 126 + "fr"}, {"/email"}),
        ],
    )
    def test_every_fault_of_a_user_is_named(self, users: FlaskClient, body: dict[str, Any], where: set[str]) -> None:
        assert places(problem(users.post("/user", json=body), 422)) == where
        create(users, "/user", {"username": "first", "email": "first@example.com"})
        assert places(problem(users.put("/user/1", json=body), 422)) == where

    @pytest.mark.parametrize(
        ("body", "where"),
        [
            ({"name": "  ", "price": "19.99"}, {"/name", "/price"}),
            ({"name": "a\x00b", "price": True}, {"/name", "/price"}),
            ({"name": "a\u202eb", "price": -0.01}, {"/name", "/price"}),
            ({"name": "a" * 201, "price": 0.001}, {"/name", "/price"}),
            ({"name": "a", "price": 100000000}, {"/price"}),
            ({"name": "a", "price": 1e308}, {"/price"}),
            ({"name": "a", "price": 99999999.991}, {"/price"}),
            ({"name": "a", "price": 10**30}, {"/price"}),
        ],
    )
    def test_every_fault_of_a_product_is_named(
        self, products: FlaskClient, body: dict[str, Any], where: set[str]
    ) -> None:
        assert places(problem(products.post("/product", json=body), 422)) == where

    @pytest.mark.parametrize("body", [b"[]", b'"ada"', b"1", b"null", b"true"])
    def test_only_an_object_is_a_user(self, users: FlaskClient, body: bytes) -> None:
        problem(users.post("/user", data=body, content_type="application/json"), 422)

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"{}x",
            b"{'username': 1}",
            b'{"price": NaN}',
            b'{"a": "\\ud800"}',
            b"\xff",
            b"[" * 60_000,
            b"\xef\xbb\xbf{}",
        ],
    )
    def test_what_is_not_json_is_malformed(self, users: FlaskClient, body: bytes) -> None:
        problem(users.post("/user", data=body, content_type="application/json"), 400)

    @pytest.mark.parametrize(
        "media", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"]
    )
    def test_only_json_is_taken(self, users: FlaskClient, media: str | None) -> None:
        problem(users.post("/user", data=json.dumps(ADA), content_type=media), 415)
        problem(users.put("/user/1", data=json.dumps(ADA), content_type=media), 415)

    def test_a_charset_parameter_is_no_other_media_type(self, users: FlaskClient) -> None:
        media = "application/json; charset=utf-8"
        assert users.post("/user", data=json.dumps(ADA), content_type=media).status_code == 201

    def test_a_body_over_64_kib_is_too_large(self, users: FlaskClient) -> None:
        body = json.dumps({**ADA, "username": "a" * 65_536})
        problem(users.post("/user", data=body, content_type="application/json"), 413)


class TestList:
    def test_pages_hold_every_user_once_in_order(self, users: FlaskClient) -> None:
        for n in range(1, 8):
            create(users, "/user", {"username": f"u{n}", "email": f"u{n}@example.com"})
        users.delete("/user/3")
        path, seen, lengths = "/user?limit=2", [], []
        while path:
            response = users.get(path)
            document = json.loads(response.data)
            lengths.append(len(document["users"]))
            seen += [user["user_id"] for user in document["users"]]
            path = document["next"]
            assert response.headers.get("Link") == (f'<{path}>; rel="next"' if path else None)
        assert seen == ["1", "2", "4", "5", "6", "7"]
        assert lengths == [2, 2, 2]

    def test_a_page_has_20_items_by_default(self, products: FlaskClient) -> None:
        for _ in range(21):
            create(products, "/product", TEA)
        document = json.loads(products.get("/product").data)
        assert len(document["products"]) == 20
        assert document["next"] == "/product?limit=20&after=20"
        assert len(json.loads(products.get("/product?limit=100").data)["products"]) == 21

    def test_an_empty_table_is_one_empty_page(self, users: FlaskClient) -> None:
        assert json.loads(users.get("/user").data) == {"users": [], "next": None}

    @pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "", "1.5", "9" * 30])
    @pytest.mark.parametrize("after", ["-1", "0", "x", "", "9" * 30])
    def test_both_parameters_are_checked(self, users: FlaskClient, limit: str, after: str) -> None:
        assert places(problem(users.get(f"/user?limit={limit}&after={after}"), 422)) == {"limit", "after"}
        assert places(problem(users.get(f"/user?limit={limit}"), 422)) == {"limit"}

    def test_after_the_last_possible_id_there_is_nothing(self, users: FlaskClient) -> None:
        create(users, "/user", ADA)
        assert json.loads(users.get(f"/user?after={2**63 - 1}").data) == {"users": [], "next": None}


class TestMethods:
    @pytest.mark.parametrize(
        ("path", "allowed"),
        [
            ("/user", {"GET", "HEAD", "OPTIONS", "POST"}),
            ("/user/1", {"GET", "HEAD", "OPTIONS", "PUT", "DELETE"}),
            ("/healthz", {"GET", "HEAD", "OPTIONS"}),
        ],
    )
    def test_other_methods_are_refused_with_those_allowed(
        self, users: FlaskClient, path: str, allowed: set[str]
    ) -> None:
        for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "TRACE"} - allowed:
            response = users.open(path, method=method, json=ADA)
            problem(response, 405)
            assert set(response.headers["Allow"].split(", ")) == allowed


class TestMonolith:
    def test_the_answer_is_made_of_both(self, monolith: FlaskClient) -> None:
        create(monolith, "/user", ADA)
        create(monolith, "/product", TEA)
        response = monolith.get("/api/1/1")
        user, product = monolith.get("/user/1").data, monolith.get("/product/1").data
        assert response.data == b'{"user":%b,"product":%b}' % (user, product)
        tag = response.headers["ETag"]
        assert monolith.get("/api/1/1", headers={"If-None-Match": tag}).status_code == 304

    @pytest.mark.parametrize("ids", ["1/2", "2/1", "x/1", "1/x", f"{2**70}/1"])
    def test_one_missing_half_is_404(self, monolith: FlaskClient, ids: str) -> None:
        create(monolith, "/user", ADA)
        create(monolith, "/product", TEA)
        problem(monolith.get(f"/api/{ids}"), 404)

    def test_it_has_the_same_resources(self, monolith: FlaskClient) -> None:
        create(monolith, "/user", ADA)
        problem(monolith.post("/user", json=ADA), 409)
        assert monolith.delete("/user/1").status_code == 204
        assert json.loads(monolith.get("/product").data) == {"products": [], "next": None}


class TestFailures:
    def test_healthz_reads_the_database(self, users: FlaskClient) -> None:
        response = users.get("/healthz")
        assert response.status_code == 200
        assert json.loads(response.data) == {"status": "ok", "service": "users"}
        assert response.headers["Cache-Control"] == "no-store"

    def test_a_database_that_was_never_prepared_is_not_healthy(
        self, empty: str, tmp_path: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        from shopkit.service import create_app, engine_of

        (tmp_path / "folder").mkdir()
        app = create_app("users", empty)
        try:
            response = app.test_client().get("/healthz")
            assert response.headers["Retry-After"] == "1"
            assert "users" not in problem(response, 503)["detail"]
            assert "users" in caplog.text, "the reason is in the log"
        finally:
            engine_of(app).dispose()

    @pytest.mark.parametrize("url", ["sqlite:////nowhere/at/all.db", "postgresql+psycopg://shop@127.0.0.1:1/shop"])
    def test_no_database_at_all_is_503_everywhere(self, url: str, caplog: pytest.LogCaptureFixture) -> None:
        from shopkit.service import create_app

        client = create_app("users", url).test_client()
        for path in ("/healthz", "/user", "/user/1"):
            document = problem(client.get(path), 503)
            assert "127.0.0.1" not in str(document) and "nowhere" not in str(document)
        problem(client.post("/user", json=ADA), 503)
        problem(client.delete("/user/1"), 503)
        assert "database unavailable" in caplog.text

    def test_an_unexpected_error_is_logged_and_not_sent(
        self, build: Any, sqlite: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = build("users", sqlite)
        app.add_url_rule("/broken", "broken", lambda: 1 / 0)
        with caplog.at_level(logging.ERROR):
            document = problem(app.test_client().get("/broken"), 500)
        assert "ZeroDivisionError" in caplog.text and "Traceback" in caplog.text
        assert not any(word in str(document) for word in ("ZeroDivision", "Traceback", "division", ".py"))

    def test_postgresql_may_restart_between_two_requests(self, build: Any, postgresql: str) -> None:
        import psycopg

        client = build("users", postgresql).test_client()
        create(client, "/user", ADA)
        with psycopg.connect(postgresql.replace("+psycopg", ""), autocommit=True) as other:
            for turn in itertools.count(1):
                ended = other.execute(
                    "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                ).fetchone()
                assert ended is not None and ended[0] >= 1, "the service keeps a connection"
                assert client.get("/user/1").status_code == 200
                if turn == 2:
                    break

    def test_readers_go_on_while_another_process_writes_to_sqlite(self, build: Any, sqlite: str) -> None:
        import sqlite3

        client = build("users", sqlite).test_client()
        create(client, "/user", ADA)
        writer = sqlite3.connect(sqlite.removeprefix("sqlite:///"), isolation_level=None)
        try:
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("DELETE FROM users")
            assert client.get("/user/1").status_code == 200
            writer.execute("ROLLBACK")
        finally:
            writer.close()

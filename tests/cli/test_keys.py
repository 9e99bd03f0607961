"""``passerelle keys``."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from redis import Redis

from passerelle.cli.main import main
from passerelle.security.credentials.api_keys import KeyStore, digest_of
from passerelle.security.credentials.redis_api_keys import RedisKeyStore
from tests.caching.redis_server import RedisServer
from tests.requirements import needs
from tests.support import bad_redis

CONFIG = """
keys: {store: var.db}
services: {u: {targets: ["http://127.0.0.1:1"]}}
routes: [{path: /, service: u, auth: [key]}]
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    Path("gateway.yaml").write_text(CONFIG)

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["keys", *arguments])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


@pytest.fixture(params=["file", pytest.param("redis", marks=needs("redis-server"))])
def find(request: pytest.FixtureRequest, run, tmp_path: Path):
    """Find a key in the store of the commands."""
    if request.param == "file":
        with closing(KeyStore(tmp_path / "var.db")) as store:
            yield lambda key: store.find(digest_of(key.encode()) or b"")
        return
    with RedisServer() as server:
        Path("gateway.yaml").write_text(f"redis: {server.url}\n{CONFIG.replace('var.db', 'redis')}")
        with closing(RedisKeyStore(Redis(port=server.port))) as shared:
            yield lambda key: shared.get(key.split("_")[1])


def test_create_list_rotate_revoke(run, find) -> None:
    code, key, note = run("create", "--owner", "app", "--scope", "a", "--scope", "b", "--expires", "90d")
    assert code == 0 and "cannot be shown again" in note
    made = find(key.strip())
    assert made is not None and made.scopes == ("a", "b") and made.expires == made.created + 90 * 86400
    code, listed, _ = run("list")
    assert code == 0 and made.id in listed and key.strip() not in listed and "holds" in listed
    code, rotated, _ = run("rotate", made.id, "--overlap", "1h", "--json")
    assert code == 0 and json.loads(rotated)["replaces"] == made.id
    code, said, _ = run("revoke", made.id)
    assert (code, said) == (0, f"{made.id}: revoked\n")
    states = {row["id"]: row["state"] for row in json.loads(run("list", "--json")[1])}
    assert states == {made.id: "revoked", json.loads(rotated)["id"]: "holds"}
    for command in ("revoke", "rotate"):
        assert run(command, "aaaaaaaaaa")[0] == 1
    assert run("rotate", made.id)[0] == 1


def test_keys_of_a_file_are_taken_over(run, find, tmp_path: Path) -> None:
    ids = []
    with closing(KeyStore(tmp_path / "before.db")) as before:
        for owner, expires in (("app", None), ("é", 2), ("old", None)):
            made, key = before.create(owner, ["a"], 1, expires)
            ids.append(made.id)
        before.touch({ids[0]: 5})
        before.revoke(ids[2], 9)
        expected = before.all()
    code, said, _ = run("import", "before.db")
    assert (code, said) == (0, "imported 3 of 3 keys; the store already had 0\n")
    assert [(row["id"], row["state"]) for row in json.loads(run("list", "--json")[1])] == [
        (each.id, each.refusal(10)) if each.refusal(10) else (each.id, "holds") for each in expected
    ]
    assert find(key) == expected[[each.id for each in expected].index(ids[2])]
    run("revoke", ids[0])
    assert run("import", "before.db")[1] == "imported 0 of 3 keys; the store already had 3\n"
    states = {row["id"]: row["state"] for row in json.loads(run("list", "--json")[1])}
    assert states[ids[0]] == "revoked"
    assert run("import", "nowhere.db")[0] == 2 and not Path("nowhere.db").exists()


def test_a_redis_that_is_not_there(run) -> None:
    Path("gateway.yaml").write_text("redis: redis://:secret@127.0.0.1:1/0\n" + CONFIG.replace("var.db", "redis"))
    for arguments in (["list"], ["create", "--owner", "app"]):
        code, said, error = run(*arguments)
        assert (code, said) == (1, "")
        assert "redis at 127.0.0.1:1: " in error and "secret" not in error and "Traceback" not in error


@needs("redis-server")
@pytest.mark.parametrize(
    "said",
    [
        *(
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"-LOADING Redis is loading\r\n",
            b"-\r\n",
            b":7\r\n",
            b"+OK\r\n",
            b"$-1\r\n",
        ),
        *(b"*0\r\n", b"*2\r\n:1\r\n$3\r\n\xff\xfe\xfd\r\n", b"*2\r\n-ERR one\r\n-ERR two\r\n"),
    ],
)
@pytest.mark.parametrize("when", [bad_redis.always, bad_redis.later])
def test_a_redis_that_talks_nonsense(run, said: bytes, when: bad_redis.When) -> None:
    with RedisServer() as server, bad_redis.BadRedis(server.port) as door:
        Path("gateway.yaml").write_text(f"redis: {door.url}\n{CONFIG.replace('var.db', 'redis')}")
        assert run("create", "--owner", "app")[0] == 0
        door.misbehave(bad_redis.says(said), when)
        for arguments in (["list"], ["create", "--owner", "app"], ["revoke", "aaaaaaaaaa"], ["rotate", "aaaaaaaaaa"]):
            code, out, error = run(*arguments)
            assert code in (0, 1) and "Traceback" not in error
            assert code == 0 or (out == "" and error)
        assert door.faults
        door.behave()
        assert run("list")[0] == 0


@needs("redis-server")
def test_a_key_that_was_altered_is_named_and_can_be_revoked(run) -> None:
    with RedisServer() as server, Redis(port=server.port) as client:
        Path("gateway.yaml").write_text(f"redis: {server.url}\n{CONFIG.replace('var.db', 'redis')}")
        key = run("create", "--owner", "app")[1].split("_")[1]
        client.hset(f"passerelle:1:keys:key:{key}", "created", "yesterday")
        code, out, error = run("list")
        assert (code, out) == (1, "") and f"cannot be read: data of key {key}" in error
        assert run("revoke", key)[:2] == (0, f"{key}: revoked\n")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["revoke", "aaaaaaaaaa"], 1, "there is no valid key 'aaaaaaaaaa'"),
        (["rotate", "x"], 1, "there is no valid key 'x'"),
        (["create", "--owner", "a\nb"], 2, "visible ASCII"),
        (["create", "--owner", "a", "--scope", "a b"], 2, "a scope is"),
        (["create", "--owner", "a", "--expires", "90"], 2, "such as 90d"),
        (["create", "--owner", "a", "--expires", "0d"], 2, "found '0d'; allowed is 1s or longer"),
        (["create"], 2, "--owner"),
        (["lst"], 2, "did you mean list?"),
    ],
)
def test_the_answer_is_no_or_the_usage_is_wrong(run, arguments: list[str], code: int, said: str) -> None:
    ended, _, error = run(*arguments)
    assert ended == code and said in error


def test_without_keys_in_the_file(run) -> None:
    Path("gateway.yaml").write_text("services: {u: {targets: ['http://a:1']}}\nroutes: [{path: /, service: u}]\n")
    assert run("list")[0] == 2


def test_a_store_that_is_none(run) -> None:
    Path("var.db").write_text("no database, but some text\n" * 100)
    code, _, error = run("list")
    assert code == 1 and "var.db" in error

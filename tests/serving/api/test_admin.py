"""Operators see the workers and change their roles, where the admin API is enabled."""

from collections.abc import Iterator

import httpx
import pytest

from serving.config import EndpointConfig
from serving.messages import Role, WorkerId, WorkerStatus
from tests.serving.api.conftest import Server, serve
from tests.serving.api.test_bad_input import error_of
from tests.support.fake_engine import FakeEngine
from tests.support.fake_tokenizer import FakeTokenizer

FLEET = [
    WorkerStatus(WorkerId("prefill-0"), Role.PREFILL, False, None, 0, 0, 1600),
    WorkerStatus(WorkerId("decode-0"), Role.DECODE, False, None, 3, 700, 1600),
]


@pytest.fixture(scope="module")
def admin_server() -> Iterator[Server]:
    config = EndpointConfig(enable_admin_api=True)
    with serve(config, FakeTokenizer()) as server:
        yield server


@pytest.fixture
def admin(admin_server: Server) -> Iterator[httpx.Client]:
    admin_server.engine.__dict__.update(FakeEngine().__dict__)
    admin_server.engine.fleet = FLEET
    with httpx.Client(base_url=admin_server.url, trust_env=False, timeout=20) as client:
        yield client


def ask(admin: httpx.Client, worker: str, body: object) -> httpx.Response:
    return admin.post(f"/admin/workers/{worker}/role", json=body)


def test_workers_are_listed_with_role_and_load(admin: httpx.Client):
    assert admin.get("/admin/workers").json()["workers"][1] == {
        "id": "decode-0",
        "role": "decode",
        "leaving": False,
        "next_role": None,
        "load": {"turns": 3, "tokens": 700, "capacity": 1600},
    }


@pytest.mark.parametrize("role", ["prefill", "decode", "both", None])
def test_a_worker_that_is_to_change_is_shown_as_leaving(admin: httpx.Client, role: str | None):
    answer = ask(admin, "decode-0", {"role": role})
    assert answer.status_code == 200
    shown = answer.json()
    assert (shown["id"], shown["leaving"], shown["next_role"]) == ("decode-0", True, role)
    assert admin.get("/admin/workers").json()["workers"][1] == shown


def test_a_change_that_cannot_be_made_is_400_with_the_engines_reason(
    admin: httpx.Client, admin_server: Server
):
    admin_server.engine.role_problem = "Worker decode-0 is the last that decodes."
    answer = ask(admin, "decode-0", {"role": "prefill"})
    assert answer.status_code == 400
    error = error_of(answer)
    assert (error["message"], error["param"]) == (admin_server.engine.role_problem, "role")
    assert not admin.get("/admin/workers").json()["workers"][1]["leaving"]


def test_an_unknown_worker_is_404(admin: httpx.Client, admin_server: Server):
    admin_server.engine.role_problem = "There is no worker x; workers: prefill-0, decode-0."
    answer = ask(admin, "x", {"role": None})
    assert answer.status_code == 404
    assert error_of(answer)["message"] == admin_server.engine.role_problem


@pytest.mark.parametrize("body", [{}, {"role": "chef"}, {"role": 1}, []])
def test_a_body_without_a_role_is_400(admin: httpx.Client, body: object):
    answer = ask(admin, "decode-0", body)
    assert answer.status_code == 400
    assert not admin.get("/admin/workers").json()["workers"][1]["leaving"]


def test_without_the_admin_api_there_is_nothing(http: httpx.Client):
    assert http.get("/admin/workers").status_code == 404
    assert http.post("/admin/workers/decode-0/role", json={"role": None}).status_code == 404


def test_the_admin_api_needs_the_key():
    config = EndpointConfig(enable_admin_api=True, api_key=("secret",))
    with serve(config, FakeTokenizer()) as server:
        url = f"{server.url}/admin/workers"
        assert httpx.get(url, trust_env=False).status_code == 401
        key = {"authorization": "Bearer secret"}
        assert httpx.get(url, headers=key, trust_env=False).status_code == 200

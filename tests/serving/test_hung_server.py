"""A whole server one of whose devices hangs: a real process, a real socket, the shipped model."""

import re
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.serving.test_serve import DEMO, SPLIT, Served, start
from tests.support.hanging_server import HANGS

HUNG = "decode-0"


@pytest.fixture
def hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that names who hangs, while it is there."""
    file = tmp_path / "hangs"
    monkeypatch.setenv(HANGS, str(file))
    return file


@pytest.fixture
def server(hangs: Path) -> Iterator[Served]:
    flags = (*SPLIT, "--step-timeout-seconds", "5")
    with tempfile.TemporaryFile() as stderr:
        served = start(
            *flags, checkpoint=DEMO, stderr=stderr, module="tests.support.hanging_server"
        )
        try:
            yield served
        finally:
            served.process.kill()
            served.process.wait()


@pytest.mark.slow
def test_its_turns_go_on_elsewhere_and_the_server_ends_without_it(server: Served, hangs: Path):
    def ask(number: int) -> httpx.Response:
        body = {"model": "demo", "prompt": f"{number} 2 3", "max_tokens": 300, "ignore_eos": True}
        return httpx.post(f"{server.url}/v1/completions", json=body, timeout=120)

    def lost() -> float:
        return server.metric("foretoken:workers_lost_total")

    assert ask(0).status_code == 200
    assert lost() == 0
    hangs.write_text(HUNG)
    with ThreadPoolExecutor() as threads:  # they are placed by load: on both workers
        answers = list(threads.map(ask, range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert {answer.json()["usage"]["completion_tokens"] for answer in answers} == {300}
    assert lost() == 1
    lost_at = r"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ERROR serving.engine.loop: "
    said = rf"{lost_at}worker {HUNG} is lost: its step has been out for 5\."
    assert re.search(said, server.said) is not None
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert ask(5).status_code == 200
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 1
    assert f"ended without {HUNG}, whose thread hangs in a step" in server.said

"""`foretoken replay`: what its exit status says of the turns."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner, Result

from serving.cli import cli

WHOLE = b'data: {"choices": [{"text": "a", "token_ids": [1], "finish_reason": "length"}]}\n\n'


@contextmanager
def server_of(answers: list[tuple[int, bytes]]) -> Iterator[str]:
    """A server of one model that gives these answers to turns, in order; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200, b'{"data": [{"id": "demo"}]}')

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self._answer(*answers.pop(0))

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def refusal(message: str) -> tuple[int, bytes]:
    return 429, json.dumps({"error": {"code": "queue_full", "message": message}}).encode()


def replay(url: str, folder: Path) -> Result:
    """Play two sessions of one turn, one after the other."""
    sessions = folder / "sessions.jsonl"
    one = {"start": 0, "turns": [{"new": 8, "reply": 1}]}
    sessions.write_text("".join(json.dumps({"id": i, **one}) + "\n" for i in range(2)))
    asked = ["replay", "--url", url, "--workload", str(sessions), "--format", "sessions"]
    flags = ["--concurrency-limit", "1"]
    return CliRunner().invoke(cli, [*asked, *flags], catch_exceptions=False)


@pytest.mark.parametrize(
    ("answers", "status", "problem"),
    [
        ([(200, WHOLE)] * 2, 0, ""),
        (
            [(200, WHOLE), refusal("try later")],
            1,
            "foretoken: 1 of 2 turns failed; 1 x 429 queue_full (try later)",
        ),
        (
            [refusal("try later")] * 2,
            1,
            "foretoken: 2 of 2 turns failed, and none finished; 2 x 429 queue_full (try later)",
        ),
    ],
)
def test_any_turn_that_failed_is_a_status_and_a_line(
    answers: list[tuple[int, bytes]], status: int, problem: str, tmp_path: Path
):
    with server_of(list(answers)) as url:
        done = replay(url, tmp_path)
    assert done.exit_code == status
    assert [line for line in done.stderr.splitlines() if line.startswith("foretoken: ")] == (
        [problem] if problem else []
    )
    assert "2 turns, " in done.stdout

"""The command itself: a real process, a real socket, the official client, the shipped model."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding
from openai import OpenAI

from model.config import load_config
from model.generate import Sampling, generate
from model.parameters import Params, abstract_params
from model.weights import load_params
from serving.config import ConfigError, EndpointConfig
from serving.serve import bind, drain_notice

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "checkpoints" / "demo"
# Few rows and short chunks: every bucket is a program, and programs are what start-up takes.
SMALL = ("--max-num-seqs", "4", "--max-num-batched-tokens", "32", "--max-prefill-rows", "1")
SPLIT = ("--prefill-workers", "1", "--decode-workers", "2", "--prefill-tp", "2")
START_S = 300


@dataclass
class Served:
    """A server that is ready."""

    url: str
    process: subprocess.Popen[bytes]
    stderr: IO[bytes]

    @property
    def said(self) -> str:
        """What it has written to standard error so far, which goes on being written meanwhile."""
        return os.pread(self.stderr.fileno(), 1_000_000, 0).decode()

    @property
    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def metric(self, name: str) -> float:
        """The sum of a series over its labels."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        values = [float(l.rsplit(" ", 1)[1]) for l in lines if re.match(rf"{name}(\{{|\s)", l)]
        assert values, f"{name} is not exported"
        return sum(values)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(
    *flags: str,
    checkpoint: Path | str,
    stderr: IO[bytes],
    module: str = "serving.cli",
    names: Sequence[str] = ("demo",),
) -> Served:
    port = free_port()
    command = [sys.executable, "-m", module, "serve", str(checkpoint), "--port", str(port)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(
        [*command, *(f"--served-model-name={name}" for name in names), *SMALL, *flags],
        cwd=ROOT,
        env=environment,
        stderr=stderr,
    )
    served = Served(f"http://127.0.0.1:{port}", process, stderr)
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{served.url}/health").status_code == 200:
                return served
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    process.kill()
    raise AssertionError(f"the server did not become ready; exit status {process.wait()}")


@contextmanager
def serving(*flags: str, checkpoint: Path = DEMO) -> Iterator[Served]:
    with tempfile.TemporaryFile() as stderr:
        served = start(*flags, checkpoint=checkpoint, stderr=stderr)
        try:
            yield served
        finally:
            served.process.kill()
            served.process.wait()


@pytest.fixture(scope="module")
def split() -> Iterator[Served]:
    with serving(*SPLIT) as served:
        yield served


@pytest.fixture(scope="module")
def params() -> Params:
    config = load_config(DEMO, dtype=None)
    here = SingleDeviceSharding(jax.devices()[0])
    shardings = jax.tree.map(lambda _: here, abstract_params(config))
    return load_params(DEMO, config, shardings, jnp.dtype(config.dtype), None)


QUESTIONS = (
    "What is 48 + 76?",
    "again with 17",
    "Sort 5 2 9 1",
    "reverse it",
    "Count from 3 to 9",
)


def test_twenty_turns_compute_only_what_is_new_and_say_what_the_oracle_says(split, params):
    config, messages, known = load_config(DEMO, dtype=None), [], 0
    for number in range(20):
        messages.append({"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]})
        answer = split.client.chat.completions.create(
            model="demo",
            messages=messages,
            max_tokens=6,
            temperature=0,
            extra_body={"return_token_ids": True},
        )
        choice, usage = answer.choices[0], answer.usage
        prompt = answer.model_extra["prompt_token_ids"]
        reply = choice.model_extra["token_ids"]
        expected = generate(params, config, prompt, Sampling(stop_ids=config.eos_ids), 6)
        assert tuple(reply) == expected.tokens
        assert usage.prompt_tokens == len(prompt)
        assert usage.prompt_tokens_details.cached_tokens == known
        known = len(prompt) + len(reply) - 1
        messages.append({"role": "assistant", "content": choice.message.content})
    assert split.metric("foretoken:route_decisions_total") == 20


def test_streams_say_the_same_and_leave_nothing_behind(split):
    request = {
        "model": "demo",
        "messages": [{"role": "user", "content": "Count from 3 to 30"}],
        "max_tokens": 40,
        "temperature": 0.8,
        "seed": 5,
    }
    compiled = split.metric("foretoken:xla_compilations_total")
    whole = split.client.chat.completions.create(**request)
    chunks = list(
        split.client.chat.completions.create(
            **request, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert split.metric("foretoken:xla_compilations_total") == compiled


@pytest.mark.parametrize("streamed", [False, True])
def test_as_many_alternatives_come_as_were_asked_for(split, streamed):
    def ask(path, **fields):
        body = {"model": "demo", "max_tokens": 3, "temperature": 1.5, "seed": 1, **fields}
        url = f"{split.url}/v1/{path}"
        if not streamed:
            return [httpx.post(url, json=body).json()["choices"][0]]
        lines = httpx.post(url, json={**body, "stream": True}).text.splitlines()
        events = [line.removeprefix("data: ") for line in lines if line.startswith("data: {")]
        return [json.loads(event)["choices"][0] for event in events]

    messages = [{"role": "user", "content": "What is 48 + 76?"}]
    for number in (None, 0, 3, 20):
        fields = {} if number is None else {"top_logprobs": number}
        choices = ask("chat/completions", messages=messages, logprobs=True, **fields)
        items = [
            item
            for choice in choices
            for item in (choice["logprobs"] or {"content": []})["content"]
        ]
        assert [len(item["top_logprobs"]) for item in items] == [number or 0] * 3
    for number in (0, 2):
        choices = ask("completions", prompt=[9, 8, 7], echo=True, logprobs=number)
        scored = [choice["logprobs"] for choice in choices]
        tokens = [token for one in scored for token in one["tokens"]]
        first, *tops = [top for one in scored for top in one["top_logprobs"]]
        assert first is None
        assert len(tops) == 5
        for token, top in zip(tokens[1:], tops, strict=True):
            likeliest = sorted(top, key=lambda name: -top[name])[:number]
            assert set(top) == {*likeliest, token}
            assert len(top) in (number, number + 1)
    if not streamed:
        _, *scores = ask("completions", prompt=[9, 8, 7], prompt_logprobs=0)[0]["prompt_logprobs"]
        assert [list(score) for score in scores] == [["8"], ["7"]]


def test_what_was_not_set_is_told_once_it_is_worked_out(split):
    info = httpx.get(f"{split.url}/server_info").json()
    assert info["max-model-len"] == load_config(DEMO, dtype=None).max_position
    assert info["hardware"] == "cpu"
    assert info["costs"] == "estimated for cpu"
    assert info["served-model-name"] == ["demo"]
    assert info["tool-call-parser"] == "none"  # the demo's template takes no tools
    pages = info["kv-pages"]
    assert list(pages) == ["prefill-0", "decode-0", "decode-1"]
    assert all(number * info["page-size"] >= info["max-model-len"] for number in pages.values())
    lines = split.said.splitlines()
    assert f"max-model-len = {info['max-model-len']}" in lines
    assert 'hardware = "cpu"' in lines
    assert 'tool-call-parser = "none"' in lines
    assert "costs: estimated for cpu" in lines
    told = ", ".join(f"{worker} {number}" for worker, number in pages.items())
    assert f"kv-pages: {told}" in lines


def test_what_the_http_server_says_has_its_time(split):
    said = r"20\d\d-\d\d-\d\d [0-9:,]+ INFO uvicorn\.error: Started server process"
    assert re.search(said, split.said)


def test_a_request_has_its_line_in_the_log(split):
    with split.client as client:
        answer = client.completions.create(model="demo", prompt="1 2 3", max_tokens=4)
    assert answer.usage is not None
    line = rf"INFO serving\.api\.access: POST /v1/completions 200 \w+ .* id={answer.id} "
    deadline = time.monotonic() + 20
    while not (found := re.search(line, split.said)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert found is not None
    assert f" completion={answer.usage.completion_tokens} " in found[0]


def test_a_client_that_leaves_frees_everything(split):
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": "Count from 1 to 300"}],
        "max_tokens": 2000,
        "stream": True,
        "ignore_eos": True,
    }
    with httpx.stream("POST", f"{split.url}/v1/chat/completions", json=body) as stream:
        next(stream.iter_lines())
    becomes_idle(split)


def becomes_idle(served: Served) -> None:
    """Wait until no turn holds anything; a test that never gets there fails."""
    deadline = time.monotonic() + 30
    while served.metric("vllm:num_requests_running") or served.metric("vllm:kv_cache_usage_perc"):
        assert time.monotonic() < deadline, "pages or rows are still in use"
        time.sleep(0.05)


def test_sigterm_lets_running_turns_finish_and_refuses_new_ones(tmp_path):
    log = tmp_path / "decisions.jsonl"
    with serving(*SPLIT, "--decision-log", str(log)) as served:  # whose programs are on disk
        body = {
            "model": "demo",
            "prompt": "1 2 3",
            "max_tokens": 400,
            "stream": True,
            "ignore_eos": True,
            "stream_options": {"include_usage": True},
        }
        with httpx.stream("POST", f"{served.url}/v1/completions", json=body, timeout=120) as stream:
            lines = stream.iter_lines()
            next(lines)
            served.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 10
            while httpx.get(f"{served.url}/health").status_code != 503:
                assert time.monotonic() < deadline
            late = httpx.post(f"{served.url}/v1/completions", json={**body, "stream": False})
            rest = [line for line in lines if line]
        assert late.status_code == 503
        assert late.json()["error"]["code"] == "draining"
        assert rest[-1] == "data: [DONE]"
        assert '"completion_tokens":400' in rest[-2]
        assert served.process.wait(60) == 0
        notice = "draining: waiting for 1 turn, for at most 30 s; a second Ctrl-C (or SIGTERM)"
        assert notice in served.said
    told = run("explain", str(log))
    assert told.returncode == 0
    # The late one is told of only where it reached the scheduler before the endpoint closed.
    assert told.stdout.startswith(("1 turns in ", "2 turns in "))
    assert "1 completed (length)" in told.stdout
    missing = run("explain", str(log), "--turn", "nobody")
    assert missing.returncode == 2
    assert missing.stderr.startswith("foretoken: no turn of this log begins with 'nobody'")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving.cli", *arguments]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["no-such-directory"], "no-such-directory: no such checkpoint directory"),
        ([str(DEMO), "--decode-tp", "3"], "degree 3 does not divide"),
        ([str(DEMO), "--kv-pages", "3"], "raise --kv-pages or lower --max-model-len"),
        ([str(DEMO), "--max-model-len", "1000000"], "--max-model-len 1000000 is above"),
        ([str(DEMO), "--length-head", "/nope"], "--length-head /nope: no such directory;"),
        ([str(DEMO), "--decision-log", "no-such-directory/log"], "log: cannot be written (No such"),
    ],
)
def test_what_cannot_be_served_is_one_line_and_status_2(flags, problem):
    result = run("serve", *flags, "--port", str(free_port()))
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith("foretoken: ")
    assert problem in last
    assert "Traceback" not in result.stderr


def test_a_port_in_use_is_one_line_and_status_2():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = run("serve", str(DEMO), "--port", str(taken.getsockname()[1]))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "choose another --port" in result.stderr


@pytest.mark.parametrize(
    ("turns", "said"),
    [(0, "no turn is running"), (1, "for 1 turn, for at most 2.5 s;"), (12, "for 12 turns, for")],
)
def test_a_drain_says_what_it_waits_for(turns, said):
    assert said in drain_notice(turns, 2.5)


@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid"])  # reserved: nobody has them
def test_an_address_that_is_not_ours_is_told_from_a_port_in_use(host):
    with pytest.raises(ConfigError, match=rf"cannot listen on {host}:.*; choose another --host$"):
        bind(EndpointConfig(host=host, port=free_port()))


@pytest.mark.slow
def test_an_operator_changes_roles_without_losing_a_turn():
    flags = ("--prefill-workers", "1", "--decode-workers", "2", "--flexible-roles")
    with serving(*flags, "--enable-admin-api") as served:
        with ThreadPoolExecutor() as threads:
            replies = [
                threads.submit(
                    served.client.completions.create,
                    model="demo",
                    prompt=[5 + i] * 8,
                    max_tokens=300,
                    extra_body={"ignore_eos": True},
                )
                for i in range(4)
            ]
            time.sleep(0.3)
            url = f"{served.url}/admin/workers"
            answer = httpx.post(f"{url}/decode-0/role", json={"role": "prefill"})
            assert answer.status_code == 200
            usages = [reply.result().usage for reply in replies]
            assert [usage and usage.completion_tokens for usage in usages] == [300] * 4
        roles = {one["id"]: one["role"] for one in httpx.get(url).json()["workers"]}
        assert roles == {"prefill-0": "prefill", "decode-0": "prefill", "decode-1": "decode"}
        refused = httpx.post(f"{url}/decode-1/role", json={"role": "prefill"})
        assert refused.status_code == 400
        again = served.client.completions.create(model="demo", prompt="1", max_tokens=4)
        assert again.choices[0].finish_reason in ("length", "stop")


@pytest.mark.slow
def test_a_server_says_at_the_start_that_ppd_has_no_table():
    flags = ("--prefill-workers", "1", "--decode-workers", "1", "--route-policy", "ppd")
    with serving(*flags) as served:
        assert "ppd without --route-table goes by predicted times" in served.said

"""The process around a server: its port, its files, its terminal."""

import resource
import signal
import socket
from pathlib import Path

import httpx
import pytest

from serving.config import ConfigError, EndpointConfig
from serving.serve import address, bind, listen, open_many_files
from tests.serving.test_serve import DEMO, SPLIT, free_port, start

FULL = Path("/dev/full")


def test_of_two_servers_that_bind_one_port_before_either_listens_the_second_is_told():
    endpoint = EndpointConfig(port=free_port())
    with bind(endpoint) as first, bind(endpoint) as second:
        listen(first, endpoint)
        with pytest.raises(ConfigError, match=rf"{endpoint.port}: .*in use; choose another --port"):
            listen(second, endpoint)
        socket.create_connection(first.getsockname()).close()


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_the_address_that_is_told_is_one_to_ask(host: str, shown: str):
    endpoint = EndpointConfig(host=host, port=0)
    try:
        listening = bind(endpoint)
    except ConfigError:
        pytest.skip("this system has no such address")
    with listening:
        port = listening.getsockname()[1]
        assert port > 0
        assert address(listening, endpoint) == f"http://{shown}:{port}"


def test_as_many_files_may_be_open_as_the_system_allows():
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, soft), hard))
        open_many_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.slow
@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_server_whose_terminal_goes_finishes_its_turns_though_nobody_can_be_told():
    with FULL.open("wb") as full:
        served = start(*SPLIT, checkpoint=DEMO, stderr=full)  # and becomes ready
    try:
        body = {"model": "demo", "prompt": "1 2 3", "max_tokens": 400, "ignore_eos": True}
        url, asked = f"{served.url}/v1/completions", {**body, "stream": True}
        with httpx.stream("POST", url, json=asked, timeout=120) as stream:
            lines = stream.iter_lines()
            next(lines)
            served.process.send_signal(signal.SIGHUP)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert '"finish_reason":"length"' in rest[-2]
        assert served.process.wait(60) == 0
    finally:
        served.process.kill()
        served.process.wait()

"""A real server on a real socket, in front of an engine that tests script by hand."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import openai
import pytest
import uvicorn

from model.sampling_defaults import SamplingDefaults
from serving.api.access import ACCESS
from serving.api.app import build_app
from serving.api.connections import Connection
from serving.api.id_tokenizer import IdTokenizer
from serving.api.service import ServedModel, Service
from serving.api.tokenizer import Tokenizer
from serving.config import EndpointConfig
from serving.messages import Role, WorkerId
from serving.metrics import Metrics, ServerLabels
from tests.support.fake_engine import FakeEngine
from tests.support.fake_tokenizer import FakeTokenizer
from tests.support.grammars import Untried, grammars_over

MODEL = ServedModel(
    names=("org/fake", "alias"),
    max_model_len=1000,
    created=1_700_000_000,
    seed=0,
    random_weights=False,
    defaults=SamplingDefaults(),
)

LABELS = ServerLabels(
    model_name="org/fake",
    max_model_len=1000,
    workers=((WorkerId("p0"), Role.PREFILL), (WorkerId("d0"), Role.DECODE)),
    page_size=16,
    cache_dtype="float32",
)


def until(condition: Callable[[], bool]) -> None:
    """Wait for the server's thread; a test that never gets there fails."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


class Lines:
    """What has been logged, each line once."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self._seen = 0

    @property
    def all(self) -> list[str]:
        return [one.getMessage() for one in self._caplog.records if one.name == ACCESS]

    def next(self) -> dict[str, str]:
        """Wait for the next line, which comes after its answer's last byte, and take it apart."""
        until(lambda: len(self.all) > self._seen)
        method, path, status, ended, *rest = self.all[self._seen].split(" ")
        self._seen += 1
        fields = dict(one.split("=", 1) for one in rest)
        assert len(fields) == len(rest)
        return {"method": method, "path": path, "status": status, "ended": ended, **fields}


@dataclass(frozen=True)
class Server:
    url: str
    engine: FakeEngine
    service: Service


@contextmanager
def serve(
    config: EndpointConfig,
    tokenizer: Tokenizer,
    model: ServedModel = MODEL,
    *,
    # A pause between two tests must not let the server close a connection in use.
    keep_alive_s: float = 600,
) -> Iterator[Server]:
    engine = FakeEngine()
    grammars = None if isinstance(tokenizer, IdTokenizer) else Untried(grammars_over(tokenizer))
    service = Service(engine, tokenizer, config, model, Metrics(LABELS), grammars)
    app = build_app(service, version="1.2.3", settings={"port": 8000})
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host="127.0.0.1",
            port=0,
            root_path=config.root_path,
            log_level="critical",
            lifespan="off",
            http=Connection,
            timeout_keep_alive=keep_alive_s,  # type: ignore[arg-type]
        )
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            threading.Event().wait(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Server(f"http://127.0.0.1:{port}", engine, service)
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def shared_server() -> Iterator[Server]:
    with serve(EndpointConfig(), FakeTokenizer()) as server:
        yield server


@pytest.fixture(autouse=True)
def server(shared_server: Server) -> Iterator[Server]:
    """The shared server with a fresh script; a test may leave no request behind in it."""
    fresh = FakeEngine()
    shared_server.engine.__dict__.update(fresh.__dict__)
    yield shared_server
    until(lambda: len(shared_server.service.running) == 0)


@pytest.fixture
def engine(server: Server) -> FakeEngine:
    return server.engine


@pytest.fixture(scope="session")
def shared_transport() -> Iterator[openai.DefaultHttpxClient]:
    with openai.DefaultHttpxClient(trust_env=False) as transport:
        yield transport


@pytest.fixture(scope="session")
def http(shared_server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shared_server.url, trust_env=False, timeout=20) as client:
        yield client


@pytest.fixture
def client(server: Server, shared_transport: openai.DefaultHttpxClient) -> openai.OpenAI:
    """The official client, without retries, so that each test sees each answer."""
    return openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="key", max_retries=0, http_client=shared_transport
    )


@pytest.fixture
def strict_client(client: openai.OpenAI) -> openai.OpenAI:
    """To it, an answer that lacks a required field is an error."""
    return client.copy(_extra_kwargs={"_strict_response_validation": True})


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    caplog.set_level(logging.INFO, logger=ACCESS)
    return Lines(caplog)

"""A server for each family that writes calls in its own way."""

from collections.abc import Iterator
from contextlib import ExitStack

import openai
import pytest

from serving.config import EndpointConfig
from tests.serving.api.conftest import Server, serve
from tests.support.calling import MANY, TEMPLATES
from tests.support.fake_engine import FakeEngine
from tests.support.tool_templates import TemplatedTokenizer


@pytest.fixture(scope="package")
def servers() -> Iterator[dict[str, Server]]:
    with ExitStack() as stack:
        yield {
            family: stack.enter_context(serve(EndpointConfig(), TemplatedTokenizer(template), MANY))
            for family, template in TEMPLATES.items()
        }


@pytest.fixture
def engines(servers: dict[str, Server]) -> dict[str, FakeEngine]:
    for server in servers.values():
        server.engine.__dict__.update(FakeEngine().__dict__)
    return {family: server.engine for family, server in servers.items()}


@pytest.fixture
def hermes(engines: dict[str, FakeEngine]) -> FakeEngine:
    return engines["hermes"]


@pytest.fixture
def clients(servers: dict[str, Server], strict_client: openai.OpenAI) -> dict[str, openai.OpenAI]:
    return {
        family: strict_client.copy(base_url=f"{server.url}/v1")
        for family, server in servers.items()
    }

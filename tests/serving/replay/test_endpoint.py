"""Replays against foretoken's own endpoint: with a scripted engine, and the real one."""

import httpx
import pytest

from serving.api.app import build_app
from serving.api.service import Service
from serving.config import EndpointConfig
from serving.metrics import Metrics
from serving.replay.run import replay
from serving.replay.settings import CHAT, TOKENS
from tests.serving.api.conftest import LABELS, MODEL
from tests.serving.replay.fake_server import config, turn, workload
from tests.serving.test_serve import SPLIT, serving
from tests.support.fake_engine import FakeEngine, Script
from tests.support.fake_tokenizer import FakeTokenizer

WORK = workload([turn(6, 3), turn(5, 2), turn(4, 2, keep=10)], [turn(8, 3)])


@pytest.fixture
def engine() -> FakeEngine:
    """It replies x y z, the last two together, and had 2 tokens of each prompt."""
    engine = FakeEngine()
    engine.script = lambda turn: Script([[120], [121, 122]], cached_len=2)
    return engine


@pytest.fixture
def transport(engine: FakeEngine) -> httpx.AsyncBaseTransport:
    service = Service(engine, FakeTokenizer(), EndpointConfig(), MODEL, Metrics(LABELS), None)
    return httpx.ASGITransport(build_app(service, version="1.2.3", settings={"port": 8000}))


def test_prompts_in_tokens_reach_the_engine_as_they_are(engine, transport):
    report = replay(config(), WORK, transport=transport, show_progress=False)
    one = [turn.tokens for turn in engine.turns if turn.tokens[:6] == engine.turns[0].tokens[:6]]
    assert [len(tokens) for tokens in one] == [6, 6 + 3 + 5, 10 + 4]
    assert one[1][:9] == (*one[0], 120, 121, 122)
    assert one[2][:10] == one[1][:10]
    assert [turn.sampling.max_tokens for turn in engine.turns if turn.tokens in one] == [3, 2, 2]
    assert not any(turn.sampling.needs_planes for turn in engine.turns)
    assert (report["finished"], report["odd_lengths"], report["model"]) == (4, 0, MODEL.names[0])
    assert report["cached_share"] == 4 * 2 / (6 + 14 + 14 + 8)


def test_chats_reach_it_too(engine, transport):
    report = replay(config(prompts=CHAT), WORK, transport=transport, show_progress=False)
    assert (report["turns"], report["finished"], report["odd_lengths"]) == (4, 4, 0)
    assert len(engine.turns) == 4


def test_what_the_endpoint_refuses_is_counted_by_its_code(transport):
    long = workload([turn(990, 20), turn(5, 2)])
    report = replay(config(), long, transport=transport, show_progress=False)
    assert report["failed"] == {"400 context_length_exceeded": 1}
    assert report["given_up"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [TOKENS, CHAT])
def test_a_real_server_delivers_every_token_that_is_asked_for(prompts):
    with serving(*SPLIT) as served:
        asked = config(url=served.url, vocab=500, prompts=prompts)
        report = replay(asked, WORK, transport=None, show_progress=False)
    assert (report["finished"], report["odd_lengths"], report["failed"]) == (4, 0, {})
    assert report["model"] == "demo"
    assert report["cached_share"] > 0

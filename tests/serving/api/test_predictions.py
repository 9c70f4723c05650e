"""Who asks for it is told what was predicted of a reply; nobody else is."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx
import pytest

from serving.forecast.forecast import Prediction
from serving.messages import End
from serving.request import Turn
from tests.serving.api.test_bad_input import PATHS
from tests.serving.api.test_stream import stream
from tests.support.fake_engine import FakeEngine, each

FIRST = (Prediction(0, 12.5, 11, 20), Prediction(20, 3.25, 3, 6))
SECOND = (Prediction(0, 7.0, 6, 9),)
SHOWN = {"predicted_remaining": [[0, 12.5, 11, 20], [20, 3.25, 3, 6]]}
OTHER = {"predicted_remaining": [[0, 7.0, 6, 9]]}
ASKED = {"foretoken_predictions": True}


def predicts(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, *said: Sequence[Prediction]):
    """The head says these of the replies, in their order."""
    submit, left = engine.submit, list(said)

    def foreseen(turn: Turn):
        reply, own = submit(turn), left.pop(0)
        for i, item in enumerate(reply.items):
            if isinstance(item, End):
                reply.items[i] = replace(item, predictions=own)
        return reply

    engine.script = lambda turn: each(b"ok")
    monkeypatch.setattr(engine, "submit", foreseen)


def answer(http: httpx.Client, where: str, **more: Any) -> dict[str, Any]:
    path, good = PATHS[where]
    found = http.post(path, json={**good, **more})
    assert found.status_code == 200, found.text
    return found.json()


@pytest.mark.parametrize("where", PATHS)
def test_a_whole_answer_shows_what_was_predicted(
    http: httpx.Client, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, where: str
):
    predicts(engine, monkeypatch, FIRST)
    found = answer(http, where, **ASKED)
    assert found["foretoken"] == SHOWN
    assert "foretoken" not in found["choices"][0]


@pytest.mark.parametrize("where", PATHS)
def test_each_of_several_choices_has_its_own(
    http: httpx.Client, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, where: str
):
    predicts(engine, monkeypatch, FIRST, SECOND)
    found = answer(http, where, n=2, **ASKED)
    assert [choice["foretoken"] for choice in found["choices"]] == [SHOWN, OTHER]
    assert found["foretoken"] == SHOWN


@pytest.mark.parametrize("where", PATHS)
def test_a_stream_shows_it_with_its_last_chunk(
    http: httpx.Client, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, where: str
):
    predicts(engine, monkeypatch, FIRST)
    *before, last = stream(http, where, **ASKED)
    assert last["foretoken"] == SHOWN
    assert last["choices"][0]["finish_reason"] == "length"
    assert before
    assert all("foretoken" not in chunk for chunk in before)


@pytest.mark.parametrize("where", PATHS)
@pytest.mark.parametrize("options", [{"include_usage": True}, {"continuous_usage_stats": True}])
def test_a_stream_with_usage_shows_it_where_its_reply_ends(
    http: httpx.Client,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    options: dict[str, bool],
):
    predicts(engine, monkeypatch, FIRST)
    chunks = stream(http, where, stream_options={"include_usage": True, **options}, **ASKED)
    (last,) = [c for c in chunks if c["choices"] and c["choices"][0]["finish_reason"]]
    assert last["foretoken"] == SHOWN
    assert sum("foretoken" in chunk for chunk in chunks) == 1
    assert chunks[-1]["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("where", PATHS)
def test_a_stream_shows_it_with_the_last_chunk_of_each_choice(
    http: httpx.Client, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, where: str
):
    predicts(engine, monkeypatch, FIRST, SECOND)
    chunks = stream(http, where, n=2, **ASKED)
    shown = {c["choices"][0]["index"]: c["foretoken"] for c in chunks if "foretoken" in c}
    ends = {c["choices"][0]["index"] for c in chunks if c["choices"][0]["finish_reason"]}
    assert shown == {0: SHOWN, 1: OTHER}
    assert ends == {0, 1}


@pytest.mark.parametrize("where", PATHS)
@pytest.mark.parametrize("flag", [{}, {"foretoken_predictions": False}])
def test_without_the_flag_nothing_is_shown(
    http: httpx.Client,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    flag: dict[str, bool],
):
    predicts(engine, monkeypatch, FIRST, SECOND, FIRST, SECOND)
    found = answer(http, where, n=2, **flag)
    assert "foretoken" not in str(found)
    assert "foretoken" not in str(stream(http, where, n=2, **flag))


@pytest.mark.parametrize("where", PATHS)
def test_without_a_head_the_list_is_empty(http: httpx.Client, engine: FakeEngine, where: str):
    assert answer(http, where, **ASKED)["foretoken"] == {"predicted_remaining": []}


@pytest.mark.parametrize("where", PATHS)
def test_a_flag_that_is_no_flag_is_a_400(http: httpx.Client, engine: FakeEngine, where: str):
    path, good = PATHS[where]
    found = http.post(path, json={**good, "foretoken_predictions": "maybe"})
    assert found.status_code == 400
    assert engine.turns == []

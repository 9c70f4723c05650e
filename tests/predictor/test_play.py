"""Sessions played on an engine that answers by rule."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from model.sampling_defaults import SamplingDefaults
from model.tokenizer import load_tokenizer
from predictor.play import LostReply, Script, left_open, play
from serving.api.params import Limits, wanted
from serving.api.schemas import ChatBody
from serving.messages import Completed, Deliver, End, Failed, SampledToken
from serving.request import GREEDY, FinishReason, SamplingParams, Turn

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "demo"
TOKENIZER = load_tokenizer(CHECKPOINT)
(EOS, *_) = TOKENIZER.eos_ids


class Echo:
    """Says "ok" `length` times and ends, unless it is cut before; notes who runs at once."""

    def __init__(self, length: int = 4) -> None:
        self.word = TOKENIZER.encode("ok", add_special_tokens=False)
        self.length = length
        self.turns: list[Turn] = []
        self.running = self.most = 0

    async def submit(self, turn: Turn) -> AsyncIterator[Deliver | End]:
        self.turns.append(turn)
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        reply = [*self.word * self.length, EOS][: turn.sampling.max_tokens]
        for index, token in enumerate(reply):
            yield Deliver(turn.id, (SampledToken(index, token, None),), None)
        self.running -= 1
        reason = FinishReason.STOP if reply[-1] == EOS else FinishReason.LENGTH
        yield End(turn.id, Completed(reason), turn.prompt_len, len(reply), 0)


class Broken(Echo):
    """Fails every turn."""

    async def submit(self, turn: Turn) -> AsyncIterator[Deliver | End]:
        yield End(turn.id, Failed("engine_dead", "gone"), turn.prompt_len, 0, 0)


def script(number: int = 0, caps: tuple[int, ...] = (100, 100), seed: int = 5) -> Script:
    return Script(number, 0, ("What is 1+1?", "again with 17"), caps, 0.8, seed)


def played(
    engine: Echo,
    *scripts: Script,
    sampling: SamplingParams = GREEDY,
    max_total: int = 1000,
    at_once: int = 8,
):
    async def work():
        room = asyncio.Semaphore(at_once)
        return await play(
            engine, TOKENIZER, scripts, sampling=sampling, max_total=max_total, room=room
        )

    return asyncio.run(work())


def test_the_next_question_comes_after_the_models_own_reply():
    engine = Echo()
    first, second = played(engine, script())
    assert (first.turn, second.turn) == (0, 1)
    said = TOKENIZER.decode(second.prompt, skip_special_tokens=True)
    assert said.index("1+1") < said.index("okokokok") < said.index("again with 17")
    assert first.tokens == second.tokens == (*engine.word * 4, EOS)
    assert [first.censored, second.censored] == [False, False]


def test_the_turns_of_a_session_share_its_key_and_differ_in_their_seed():
    engine = Echo()
    played(engine, script(), script(seed=99))
    sessions = {turn.session for turn in engine.turns}
    assert len(sessions) == 2
    assert sorted(turn.sampling.seed for turn in engine.turns) == [5, 6, 99, 100]
    assert len({turn.id for turn in engine.turns}) == 4


@pytest.mark.parametrize(
    "defaults",
    [
        SamplingDefaults(),
        SamplingDefaults(temperature=0.6, top_p=0.8, top_k=20, repetition_penalty=1.05),
        SamplingDefaults(top_k=-1, min_p=0.1),
    ],
    ids=str,
)
def test_replies_are_sampled_as_a_server_does_that_is_told_a_temperature(
    defaults: SamplingDefaults,
):
    engine = Echo()
    played(engine, script(), sampling=left_open(defaults))
    body = ChatBody.model_validate({"model": "m", "messages": [], "temperature": 0.8})
    for turn in engine.turns:
        limits = Limits(1000, 512, TOKENIZER.eos_ids, 0, defaults)
        served = wanted(body, len(turn.tokens), limits, lambda: 0, None).sampling
        own = {"seed": turn.sampling.seed, "max_tokens": turn.sampling.max_tokens}
        assert turn.sampling == replace(served, **own)


def test_a_cap_cuts_a_reply_and_says_so():
    first, second = played(Echo(length=50), script(caps=(7, 1000)))
    assert (len(first.tokens), first.limit, first.censored) == (7, 7, True)
    assert not second.censored


def test_the_context_cuts_a_reply_and_ends_the_session():
    engine = Echo(length=500)
    (only,) = played(engine, script(caps=(5000, 5000)), max_total=60)
    assert len(only.prompt) + len(only.tokens) == 60
    assert only.limit == len(only.tokens)
    assert only.censored


def test_no_more_sessions_run_at_once_than_allowed():
    engine = Echo()
    replies = played(engine, *(script(number) for number in range(9)), at_once=3)
    assert engine.most == 3
    assert [r.script.number for r in replies] == sorted(r.script.number for r in replies)


def test_a_reply_that_says_nothing_of_its_length_ends_the_run():
    with pytest.raises(LostReply, match="engine_dead"):
        played(Broken(), script())

"""The public traces themselves, where they are at hand: counts that their description states.

Set FORETOKEN_TRACES to the folder that has them. Nothing of them is part of this repository.
"""

import os
from functools import cache
from itertools import takewhile
from math import gamma
from pathlib import Path
from statistics import fmean, quantiles

import pytest

from serving.workload.azure import read_azure
from serving.workload.lines import Skipped, json_object, read_lines
from serving.workload.mooncake import read_mooncake
from serving.workload.read import TRACES_VARIABLE
from serving.workload.servegen import read_servegen
from serving.workload.session import SessionShape, Workload, within_context
from serving.workload.weka import read_weka

FOLDER = os.environ.get(TRACES_VARIABLE)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FOLDER is None, reason=f"{TRACES_VARIABLE} is not set"),
]


def file(name: str) -> Path:
    assert FOLDER is not None
    return Path(FOLDER) / name


@cache
def mooncake() -> Workload:
    return read_mooncake(file("mooncake_conversation.jsonl.zst"), Skipped(False))


@cache
def weka() -> Workload:
    path = file("weka_claude_code.jsonl.zst")
    return read_weka(path, Skipped(False), session_rate=1.0, seed=0)


def main_of(workload: Workload) -> list[SessionShape]:
    return [session for session in workload.sessions if "-agent" not in session.id]


def prompts_of(session: SessionShape) -> list[tuple[int, int]]:
    """Prompt and kept tokens of each turn."""
    found: list[tuple[int, int]] = []
    context = 0
    for turn in session.turns:
        kept = context if turn.keep is None else min(turn.keep, context)
        prompt = kept + turn.new + sum(span.tokens for span in turn.shared)
        found.append((prompt, kept))
        context = prompt + turn.reply
    return found


def test_azure():
    workload = read_azure(file("azure_2023_conv.csv.zst"), Skipped(False))
    turns = [session.turns[0] for session in workload.sessions]
    assert workload.num_turns == len(turns) == 19_366
    assert round(fmean(turn.new for turn in turns)) == 1_155
    assert round(fmean(turn.reply for turn in turns)) == 211
    assert workload.sessions[-1].start_s - workload.sessions[0].start_s == pytest.approx(
        3502, abs=1
    )


def test_mooncake_counts():
    workload = mooncake()
    assert workload.num_turns == 7_851
    assert len(workload.sessions) == 5_448
    many = [len(session.turns) for session in workload.sessions if len(session.turns) > 1]
    assert (len(many), sum(many), max(many)) == (1_312, 3_715, 30)
    last_s = workload.sessions[-1].start_s
    assert 2397 <= last_s < 2400


def test_mooncake_lengths_are_those_of_the_requests():
    prompts = [prompt for session in mooncake().sessions for prompt, _ in prompts_of(session)]
    replies = [turn.reply for session in mooncake().sessions for turn in session.turns]
    assert round(fmean(prompts)) == 12_428
    assert max(prompts) == 124_847
    assert round(fmean(replies)) == 347


def test_mooncake_sessions_share_what_the_requests_did():
    # 35.8 % of the tokens recorded hit a prefix; replies, which hashes do not tell of, add to that.
    hits = total = 0
    seen: set[int] = set()
    for session in mooncake().sessions:
        turns = prompts_of(session)
        total += sum(prompt for prompt, _ in turns)
        hits += sum(kept for _, kept in turns)
        spans = session.turns[0].shared
        hits += sum(span.tokens for span in takewhile(lambda span: span.name in seen, spans))
        seen.update(span.name for span in spans)
    assert hits / total == pytest.approx(0.371, abs=0.001)


def test_weka_counts():
    main = main_of(weka())
    assert (len(main), sum(len(session.turns) for session in main)) == (449, 29_796)
    assert (len(weka().sessions), weka().num_turns) == (449 + 35, 29_796 + 386)


def test_weka_lengths_are_those_of_the_calls():
    turns = [one for session in main_of(weka()) for one in prompts_of(session)]
    prompts = [prompt for prompt, _ in turns]
    assert round(fmean(prompts)) == 121_889
    assert max(prompts) == 894_371
    # Blocks say 96.2 %; beyond them the reply before is kept as well.
    assert sum(kept for _, kept in turns) / sum(prompts) == pytest.approx(0.965, abs=0.001)


def test_weka_think_times():
    think = [turn.think_s for one in main_of(weka()) for turn in one.turns[1:] if turn.think_s]
    assert quantiles(think, n=2)[0] == pytest.approx(10, abs=2)
    assert max(think) == pytest.approx(77_360, abs=1)


def test_weka_leading_turns_within_64k():
    # The description cuts what leads into pieces where the context shrank by more than 64 tokens,
    # and counts those of two turns and more. Here a session stays whole and keeps less there.
    leading = main_of(within_context(weka(), 2**16))
    assert (len(leading), sum(len(session.turns) for session in leading)) == (282, 5_707)
    pieces: list[int] = []
    for session in leading:
        context = 0
        for (prompt, _), turn in zip(prompts_of(session), session.turns, strict=True):
            if turn is session.turns[0] or prompt < context - 64:
                pieces.append(0)
            pieces[-1] += 1
            context = prompt + turn.reply
    many = [piece for piece in pieces if piece > 1]
    assert (len(many), sum(many)) == (453, 5_606)


def test_servegen_has_the_rate_and_the_lengths_of_the_day():
    path = file("servegen_deepseek_r1.jsonl.zst")
    workload = read_servegen(path, Skipped(False), start_s=0.0, seconds=86_400.0, seed=0)
    assert workload.num_turns / 86_400 == pytest.approx(16.0, rel=0.02)
    turns = [session.turns[0] for session in workload.sessions]
    assert fmean(turn.new for turn in turns) == pytest.approx(1_268, rel=0.02)
    assert fmean(turn.reply for turn in turns) == pytest.approx(1_527, rel=0.02)
    assert quantiles([turn.reply for turn in turns], n=2)[0] == pytest.approx(792, rel=0.02)


def test_servegen_by_its_scales_would_come_a_quarter_faster():
    per_day = 0.0
    for line in read_lines(file("servegen_deepseek_r1.jsonl.zst")):
        for _, rate, _, pattern, shape, scale in json_object(line)["trace"]:
            if rate:
                mean = shape * scale if pattern == "Gamma" else scale * gamma(1 + 1 / shape)
                per_day += 600 / mean
    assert per_day / 86_400 == pytest.approx(20.4, abs=0.1)

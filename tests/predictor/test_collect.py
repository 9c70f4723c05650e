"""From sessions to records."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from predictor.collect import (
    Collector,
    main,
    read_sessions,
    recomputed,
    scripts_of,
    task_sessions,
)
from predictor.dealing import Asked
from predictor.play import LostReply, Reply
from predictor.records import Manifest, Origin, RecordsError, add_shard, read_records
from predictor.states import Text, Wanted, recompute
from predictor.texts import texts_of
from serving.request import GREEDY, SamplingParams
from tests.support.tiny_cluster import MODEL, PARAMS

ORIGIN = Origin("", "", MODEL.hidden_size, (1, 2), 0, 3, (0.5, 1.0), 20, 512, 0.5)
ASKED = Asked("adding", ("a", "b"))
DEMO = Path(__file__).parents[2] / "checkpoints" / "demo"


def test_a_session_is_played_at_every_temperature_so_many_times():
    scripts = scripts_of(4, ASKED, 1, ORIGIN)
    assert [s.temperature for s in scripts] == [0.5] * 3 + [1.0] * 3
    assert len({s.seed for s in scripts}) == 6
    assert {(s.number, s.family, s.questions) for s in scripts} == {(4, 1, ("a", "b"))}
    assert scripts == scripts_of(4, ASKED, 1, ORIGIN)
    assert scripts != scripts_of(4, ASKED, 1, replace(ORIGIN, seed=1))


def test_a_share_of_the_replies_is_capped_at_lengths_of_all_kinds():
    caps = [c for n in range(200) for s in scripts_of(n, ASKED, 0, ORIGIN) for c in s.caps]
    capped = [cap for cap in caps if cap < 512]
    assert len(capped) / len(caps) == pytest.approx(0.5, abs=0.05)
    assert min(capped) >= 16
    assert np.median(capped) == pytest.approx(np.sqrt(16 * 512), rel=0.15)


def test_records_say_what_came_after_them():
    script = scripts_of(3, ASKED, 1, ORIGIN)[0]
    random = np.random.default_rng(0)
    made = [
        Reply(
            script,
            turn,
            tuple(random.integers(0, 64, 10 + turn).tolist()),
            tuple(random.integers(0, 64, length).tolist()),
            limit=60,
            censored=length == 60,
        )
        for turn, length in enumerate((1, 60))
    ]
    records, prompts = recomputed(made, 100, MODEL, PARAMS, ORIGIN)
    assert prompts is None
    assert set(records.reply.tolist()) == {100, 101}
    for number, reply in enumerate(made, 100):
        own = records[records.reply == number]
        assert own.generated[0] == 0
        assert (own.generated + own.remaining == len(reply.tokens)).all()
        assert (own.generated + own.limit == 60).all()
        assert (own.censored == reply.censored).all()
        assert (own.prompt_len == len(reply.prompt)).all()
        assert (own.turn == reply.turn).all()
        assert (own.temperature == np.float32(script.temperature)).all()
        assert set(own.family.tolist()) == {1}
        assert set(own.session.tolist()) == {3}


def test_a_records_state_has_seen_the_tokens_generated_and_no_later_one():
    script = scripts_of(3, ASKED, 1, ORIGIN)[0]
    reply = Reply(script, 0, tuple(range(12)), tuple(range(20, 50)), limit=60, censored=False)
    records, _ = recomputed([reply], 0, MODEL, PARAMS, ORIGIN)
    for i in range(len(records)):
        seen = (*reply.prompt, *reply.tokens[: records.generated[i]])
        text = Text(seen, len(reply.prompt), [len(seen) - 1])
        (wanted,) = recompute(PARAMS, [text], Wanted((1, 2)), config=MODEL)
        assert records.hidden[i] == pytest.approx(wanted.states[0], abs=2e-2)


def test_prompts_are_kept_once_for_all_the_samples_of_a_question():
    script = scripts_of(3, ASKED, 1, ORIGIN)[0]
    prompt, other = tuple(range(12)), tuple(range(3, 9))
    made = [
        Reply(script, 0, asked, reply, limit=60, censored=False)
        for asked, reply in ((prompt, (20, 21)), (other, (9, 9, 9)), (prompt, (30,)))
    ]
    how = replace(ORIGIN, prompt_layer=2, prompt_window=8)
    _, prompts = recomputed(made, 100, MODEL, PARAMS, how)
    assert prompts is not None
    assert prompts.stop.tolist() == [8, 14]
    assert prompts.of(np.array([100, 101, 102], np.int32)).tolist() == [0, 1, 0]
    alone = recompute(
        PARAMS,
        [Text(one, len(one), []) for one in (prompt, other)],
        Wanted((1,), prompt_layer=2, window=8),
        config=MODEL,
    )
    kv = np.concatenate([one.kv for one in alone])
    assert prompts.kv == pytest.approx(kv, abs=2e-2)


def test_task_sessions_go_round_the_families_and_repeat_by_seed():
    def first(seed: int) -> list[Asked]:
        return [one for one, _ in zip(task_sessions(seed), range(30), strict=False)]

    assert first(1) == first(1)
    assert first(1) != first(2)
    assert len({one.family for one in first(1)}) == 13
    assert any(len(one.questions) > 1 for one in first(1))


def test_sessions_of_ones_own_come_from_json_lines(tmp_path: Path):
    path = tmp_path / "sessions.jsonl"
    asked = {"family": "x", "questions": ["a", "b\u2028c"]}
    path.write_text(json.dumps(asked, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_sessions(path) == [Asked("x", ("a", "b\u2028c"))]


@pytest.mark.parametrize(
    "line", ['{"family": "x"}', '{"questions": "What is 1+1?"}', '{"questions": []}', "[]", ""]
)
def test_a_line_that_is_no_session_is_named(tmp_path: Path, line: str):
    path = tmp_path / "sessions.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(RecordsError, match=r"sessions\.jsonl:1"):
        read_sessions(path)


def test_what_cannot_be_written_is_told_before_anything_is_played(tmp_path: Path):
    (tmp_path / "file").write_text("")
    asked = [str(DEMO), "--out", str(tmp_path / "file" / "records"), "--sessions", "1"]
    result = CliRunner().invoke(main, asked)
    assert (result.exit_code, str(tmp_path / "file") in result.output) == (1, True)
    assert isinstance(result.exception, SystemExit)  # one line, no traceback


@pytest.mark.parametrize(
    ("said", "top_k", "noted"),
    [({"temperature": 0.6, "top_k": 20}, 20, "top_k 20"), ({}, None, None)],
)
def test_replies_are_sampled_as_the_checkpoint_wants(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: dict,
    top_k: int | None,
    noted: str | None,
):
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(DEMO, checkpoint, ignore=shutil.ignore_patterns("length_head"))
    (checkpoint / "generation_config.json").write_text(json.dumps(said))
    seen: list[tuple[SamplingParams, str | None]] = []

    async def note(self: Collector, sessions: object, manifest: Manifest, *_: object) -> Manifest:
        seen.append((self._sampling, manifest.origin.sampling))
        return manifest

    monkeypatch.setattr(Collector, "run", note)
    asked = [str(checkpoint), "--out", str(tmp_path / "records"), "--sessions", "1"]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 0, result.output
    assert seen == [(replace(GREEDY, top_k=top_k), "top_k 20" if top_k else None)]


def test_an_engine_that_fails_a_turn_ends_the_run_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async def fail(*_: object) -> Manifest:
        raise LostReply("turn 3 was not answered")

    monkeypatch.setattr(Collector, "run", fail)
    result = CliRunner().invoke(main, [str(DEMO), "--out", str(tmp_path / "r"), "--sessions", "1"])
    assert (result.exit_code, result.output) == (1, "Error: turn 3 was not answered\n")


@pytest.mark.slow
def test_sessions_are_played_through_the_engine_and_an_interrupted_run_goes_on(tmp_path: Path):
    asked = [str(DEMO), "--out", str(tmp_path), "--sessions", "20", "--samples", "1"]

    def run(*more: str):
        return CliRunner().invoke(main, [*asked, "--shard-sessions", "7", *more])

    first = run()
    assert first.exit_code == 0, first.output
    manifest, records = read_records(tmp_path, "train")
    assert len(manifest.shards) == 4
    assert (records.remaining >= 1).all()
    lost = tmp_path / "train-00001.npz"
    whole = lost.read_bytes()
    shards = {name: shard for name, shard in manifest.shards.items() if name != lost.name}
    lost.unlink()
    add_shard(
        tmp_path,
        replace(manifest, shards=shards),
        "test-00000.npz",
        records[:0],
        texts_of([], [], []),
    )
    again = run()
    assert again.exit_code == 0, again.output
    assert lost.read_bytes() == whole
    dealt = run("--shard-sessions", "6")
    assert dealt.exit_code == 1
    assert "holds other sessions than these" in dealt.output
    other = run("--seed", "1")
    assert other.exit_code == 1
    assert "seed differs" in other.output

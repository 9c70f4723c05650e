"""Invariant 4: the same events at the same times give the same actions, byte for byte."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from serving.messages import WorkerId
from tests.support.fake_fleet import FakeFleet
from tests.support.shape import Shape
from tests.support.turns import make_turn

P0, D0 = WorkerId("p0"), WorkerId("d0")
ROOT = Path(__file__).parents[3]
SHAPE = Shape(prefill_workers=2, decode_workers=2, num_pages=17, max_rows=3, reserve_tokens=0)


def play_once(seed: int) -> list[str]:
    """A run with faults of every kind; returns all that went in and came out."""
    fleet = FakeFleet(SHAPE, seed=seed)
    fleet.log = []
    fleet.run()
    fleet.lose_ack = lambda ack: ack.transfer.number % 5 == 0
    fleet.break_transfer = lambda send: "receiver" if send.transfer.number % 7 == 3 else None
    for i in range(8):
        turn = make_turn(f"t{i}", [i // 2] * (5 + i), max_tokens=20, seed=i, session=f"s{i % 5}")
        fleet.submit(turn)
    for victim in (P0, D0):
        for _ in range(100):
            fleet.round()
        fleet.lose(victim)
    fleet.cancel(next(reversed(fleet.replies)))
    fleet.run()
    fleet.advance(SHAPE.transfer_timeout_s + 1)
    fleet.run()
    fleet.check_empty()
    return fleet.log


def digest(log: list[str]) -> str:
    """One line for a whole log."""
    return hashlib.sha256("\n".join(log).encode()).hexdigest()


def test_a_run_repeats_itself_byte_for_byte():
    first, second = play_once(4), play_once(4)
    assert first == second
    text = "\n".join(first)
    for word in ("preempted", "transfer_failed", "PullRequested", "Launch"):
        assert word in text, f"the run shows too little: no {word}"
    times = [line.split()[0] for line in first if "reason='worker_lost'" in line]
    assert max(times.count(time) for time in times) > 2, "no loss hit several turns at once"


def test_a_run_does_not_depend_on_the_hash_seed():
    digests = {in_new_process(hash_seed) for hash_seed in ("0", "1", "4242")}
    assert digests == {digest(play_once(4))}


def in_new_process(hash_seed: str) -> str:
    """Play the run in a fresh interpreter, without JAX and with another hash of strings."""
    code = "from tests.serving.core.test_replay import *; print(digest(play_once(4)))"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()

"""Sessions are dealt to shards once, and what is there of another run is no part of this one."""

import pytest

from predictor.dealing import Asked, asked_of, missing, shards
from predictor.records import RecordsError, Shard, split_of

SESSIONS = [Asked("adding", (f"What is {n}+1?", "And again?")) for n in range(60)]


def collected(count: int, per_shard: int, sessions: list[Asked] = SESSIONS) -> dict[str, Shard]:
    """The shards of a run of so many sessions that is over."""
    return {
        name: Shard(9, 9, name, len(numbers), asked_of(numbers, sessions))
        for name, numbers in shards(count, per_shard)
    }


def test_every_session_is_in_one_shard_and_every_shard_in_one_split():
    dealt = shards(50, 8)
    assert sorted(n for _, numbers in dealt for n in numbers) == list(range(50))
    for name, numbers in dealt:
        assert {split_of(number) for number in numbers} == {name.split("-")[0]}
        assert 1 <= len(numbers) <= 8
    assert len({name for name, _ in dealt}) == len(dealt)


def test_a_run_goes_on_with_the_shards_that_are_not_there():
    dealt, there = shards(50, 8), collected(50, 8)
    assert missing(dealt, SESSIONS, {}) == dealt
    assert missing(dealt, SESSIONS, there) == []
    del there["train-00002.npz"], there["test-00000.npz"]
    assert [name for name, _ in missing(dealt, SESSIONS, there)] == [
        "train-00002.npz",
        "test-00000.npz",
    ]


def test_a_run_of_more_sessions_collects_shards_anew_that_were_not_full():
    """The last shard of a split holds what was left over, and lacks what comes in."""
    found = missing(shards(60, 8), SESSIONS, collected(50, 8))
    whole = dict(shards(50, 8))
    assert all(len(whole.get(name, [])) < 8 for name, _ in found)
    kept = [n for name, own in whole.items() if name not in dict(found) for n in own]
    assert sorted(kept + [n for _, own in found for n in own]) == list(range(60))


@pytest.mark.parametrize(
    ("count", "per_shard", "change"),
    [(50, 4, ""), (50, 16, ""), (30, 8, ""), (50, 8, "Please: ")],
    ids=["smaller shards", "larger shards", "fewer sessions", "other questions"],
)
def test_shards_of_other_sessions_are_named(count: int, per_shard: int, change: str):
    asked = [Asked(one.family, (change + one.questions[0], "And again?")) for one in SESSIONS]
    with pytest.raises(RecordsError, match=r"\.npz holds other sessions.*another directory"):
        missing(shards(count, per_shard), asked, collected(50, 8))


def test_a_shard_that_does_not_say_what_was_asked_is_taken_as_it_is():
    there = {name: Shard(9, 9, name) for name, _ in shards(50, 8)}
    assert missing(shards(50, 8), SESSIONS, there) == []

"""Which sessions go into which shard of records, and which shards are still to be collected?

By number and split alone, so that a run that was interrupted goes on, and one of more sessions
adds to what is there. Knows no engine and no files.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from predictor.records import SPLITS, RecordsError, Shard, digest, split_of

Dealt = tuple[str, list[int]]
"""The name of a shard, and the numbers of the sessions it holds."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The questions of one session, and the family that they belong to."""

    family: str
    questions: tuple[str, ...]


def shards(sessions: int, per_shard: int) -> list[Dealt]:
    """Deal session numbers to shards by split."""
    dealt: list[Dealt] = []
    for split in SPLITS:
        own = [number for number in range(sessions) if split_of(number) == split]
        for start in range(0, len(own), per_shard):
            name = f"{split}-{start // per_shard:05}.npz"
            dealt.append((name, own[start : start + per_shard]))
    return dealt


def asked_of(numbers: Sequence[int], sessions: Sequence[Asked]) -> str:
    """Return a digest of what is asked in the sessions of these numbers."""
    asked = [[number, sessions[number].family, sessions[number].questions] for number in numbers]
    return digest(json.dumps(asked).encode())


def missing(
    dealt: Sequence[Dealt], sessions: Sequence[Asked], there: Mapping[str, Shard]
) -> list[Dealt]:
    """Return the shards that are not there, or lack sessions, in their order.

    Raises RecordsError if one that is there holds other sessions: of another file, dealt
    otherwise, or more of them. Of shards that do not say what was asked nothing is known.
    """
    numbers_of = dict(dealt)
    for name, shard in there.items():
        numbers = numbers_of.get(name, [])[: shard.sessions]
        if shard.asked not in (None, asked_of(numbers, sessions)):
            raise RecordsError(f"{name} holds other sessions than these; name another directory")
    return [
        (name, numbers)
        for name, numbers in dealt
        if name not in there or (there[name].sessions or len(numbers)) < len(numbers)
    ]

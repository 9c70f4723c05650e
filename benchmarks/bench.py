"""What do all parts of the benchmark need? Scale, places and progress, passed down as one value."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.child import Child
from benchmarks.load import LoadReport, LoadSpec
from benchmarks.server import MODEL, shared_cache

LEAST_REPLIES = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured. Lengths in tokens; `run_s` is what one served run aims at.

    `decision_s`: each case of a decision is asked for so long. `balance_s`: chats
    begin within so long, in each of `balance_repeats` runs of a policy.
    """

    rows: tuple[int, ...]
    repeats: int
    run_s: float
    prompt_len: int
    reply_len: int
    turns: int
    turn_len: int
    decision_s: float
    balance_s: float
    balance_repeats: int

    @property
    def context(self) -> int:
        """Mean tokens that a row attends to while its reply grows."""
        return self.prompt_len + self.reply_len // 2


FULL = Scale(
    rows=(1, 4, 16, 64),
    repeats=3,
    run_s=2.0,
    prompt_len=32,
    reply_len=448,
    turns=10,
    turn_len=200,
    decision_s=0.5,
    balance_s=24.0,
    balance_repeats=5,
)
QUICK = Scale(
    rows=(1, 16),
    repeats=1,
    run_s=0.5,
    prompt_len=32,
    reply_len=96,
    turns=3,
    turn_len=200,
    decision_s=0.02,
    balance_s=5.0,
    balance_repeats=1,
)
"""Shows that every part works; its figures mean little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What a part is given. `cache`: compile cache of this run; `say` reports progress."""

    root: Path
    checkpoint: Path
    cache: Path
    scale: Scale
    torch_python: str | None
    say: Callable[[str], None]

    @property
    def vocab_size(self) -> int:
        """Token ids of the checkpoint."""
        return json.loads((self.checkpoint / "config.json").read_text())["vocab_size"]

    @property
    def env(self) -> dict[str, str]:
        """The environment of this run's processes."""
        return shared_cache(self.cache)

    def child(self, module: str, *arguments: str, python: str | None = None) -> Child:
        """Start a module of this package as a process that answers lines."""
        command = [python or sys.executable, "-m", module, *arguments]
        return Child(command, self.root, self.env)

    def load(self, port: int, clients: int, *, stream: bool) -> LoadSpec:
        """Describe one round of load: every client asks once."""
        return LoadSpec(
            port=port,
            model=MODEL,
            clients=clients,
            replies=LEAST_REPLIES,
            prompt_len=self.scale.prompt_len,
            reply_len=self.scale.reply_len,
            vocab_size=self.vocab_size,
            stream=stream,
            seed=0,
        )


def replies_for(seconds: float, once: LoadReport) -> int:
    """How many replies per client fill `seconds`, given how long one took."""
    return max(LEAST_REPLIES, round(seconds / once.wall_s))

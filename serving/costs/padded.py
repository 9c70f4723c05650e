"""How long does a step take that is padded to one of the few shapes there are programs for?

For latency models that were only described: what was measured ran padded. Knows no programs.
"""

from collections.abc import Callable
from dataclasses import dataclass

from serving.costs.costs import Costs, Estimate, Link, StepModel


@dataclass(frozen=True, slots=True)
class Padded:
    """`Costs` of `base` for what is run: `pad` takes a step's rows and new tokens, and returns it.

    The KV that rows attend to is read as it is. Decode steps as a plane are `base`'s: between two
    shapes they would lie on stairs.
    """

    base: Costs
    pad: Callable[[int, int], tuple[int, int]]

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values that one token position takes."""
        return self.base.kv_bytes_per_token

    def prefill(self, new_len: int, cached_len: int) -> Estimate:
        """Predict a step that only prefills `new_len` tokens on top of `cached_len`."""
        return self.mixed(0, 0, new_len, cached_len)

    def decode(self, rows: int, kv_tokens: int) -> Estimate:
        """Predict a step of `rows` decode rows that attend to `kv_tokens` tokens together."""
        return self.mixed(rows, kv_tokens, 0, 0)

    def decode_ahead(self, rows: int, kv_tokens: int, steps: int) -> list[float]:
        """Predict so many decode steps one after another, in seconds: each row grows by a token."""
        return [self.decode(rows, kv_tokens + step * rows).seconds for step in range(steps)]

    def mixed(self, rows: int, kv_tokens: int, new_len: int, cached_len: int) -> Estimate:
        """Predict a decode step with a chunk of `new_len` tokens on top of `cached_len` in it."""
        if rows + new_len == 0:
            return self.base.mixed(0, 0, 0, 0)
        rows_run, new_run = self.pad(rows, new_len)
        return self.base.mixed(rows_run, kv_tokens, new_run, cached_len)

    def transfer(self, num_bytes: int, link: Link) -> Estimate:
        """Predict moving KV over a link."""
        return self.base.transfer(num_bytes, link)

    def step_model(self) -> StepModel:
        """Return the plane that fits `decode` best over the range it is used in."""
        return self.base.step_model()

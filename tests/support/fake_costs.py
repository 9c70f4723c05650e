"""A latency model with straight lines only, so that a person can compute what it answers."""

from dataclasses import dataclass

from serving.costs.costs import Estimate, Link, StepModel


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearCosts:
    """A step takes `base_s`, and so much per new token, cached token, pair of a new and a cached
    token (`past_s`), decode row and its KV token.

    A mixed step takes what its decode rows take, and the tokens of its chunk on top.
    """

    base_s: float = 0.0
    new_s: float = 0.0
    cached_s: float = 0.0
    past_s: float = 0.0
    row_s: float = 0.0
    kv_s: float = 0.0
    kv_bytes_per_token: int = 1
    error: float = 0.0

    def prefill(self, new_len: int, cached_len: int) -> Estimate:
        return self.mixed(0, 0, new_len, cached_len)

    def decode(self, rows: int, kv_tokens: int) -> Estimate:
        return self.mixed(rows, kv_tokens, 0, 0)

    def decode_ahead(self, rows: int, kv_tokens: int, steps: int) -> list[float]:
        return [self.decode(rows, kv_tokens + i * rows).seconds for i in range(steps)]

    def mixed(self, rows: int, kv_tokens: int, new_len: int, cached_len: int) -> Estimate:
        past_s = self.past_s * new_len * cached_len
        chunk_s = self.new_s * new_len + self.cached_s * cached_len + past_s
        return Estimate(
            self.base_s + self.row_s * rows + self.kv_s * kv_tokens + chunk_s, self.error
        )

    def transfer(self, num_bytes: int, link: Link) -> Estimate:
        return Estimate(link.latency_s + num_bytes / link.bytes_per_s, self.error)

    def step_model(self) -> StepModel:
        return StepModel(self.base_s, self.row_s, self.kv_s)

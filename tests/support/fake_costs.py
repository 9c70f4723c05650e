"""Costs that can be worked out by hand: everything is linear."""

from dataclasses import dataclass

from serving.costs.costs import Estimate, Link, StepModel


@dataclass(frozen=True)
class LinearCosts:
    """A step takes `base_s`, and so much per decode row, token of KV, new token, and pair of a new
    token and a cached one that it attends to.
    """

    base_s: float
    per_row_s: float
    per_token_s: float
    per_new_s: float
    per_past_s: float = 0.0
    kv_bytes_per_token: int = 1

    def prefill(self, new_len: int, cached_len: int) -> Estimate:
        return self.mixed(0, 0, new_len, cached_len)

    def decode(self, rows: int, kv_tokens: int) -> Estimate:
        return self.mixed(rows, kv_tokens, 0, 0)

    def mixed(self, rows: int, kv_tokens: int, new_len: int, cached_len: int) -> Estimate:
        decode_s = self.per_row_s * rows + self.per_token_s * kv_tokens
        prefill_s = self.per_new_s * new_len + self.per_past_s * new_len * cached_len
        return Estimate(self.base_s + decode_s + prefill_s, 0.0)

    def transfer(self, num_bytes: int, link: Link) -> Estimate:
        return Estimate(link.latency_s + num_bytes / link.bytes_per_s, 0.0)

    def step_model(self) -> StepModel:
        return StepModel(self.base_s, self.per_row_s, self.per_token_s)

"""How long does a step take on hardware that was only described? A calibrated roofline.

A step runs its matmuls and its attention one after the other, so each is bounded on its own by the
slower of memory and arithmetic (ours: with one bound on the whole step, a few new tokens on a long
history would look too cheap). With weights of W bytes and P parameters, B decode rows over KV
tokens of KVB bytes each, and a chunk of n tokens on a past of p:

    matmuls    max(W / (eta_w BW), 2 P (B + n) / (eta_f F))
    decode     KVB KV / (eta_kv BW)
    chunk      max(4 L H d (n p + n^2 / 2) / (eta_a F), KVB p / (eta_kv BW))
    fixed      L layer_s + host_s
    tp > 1     work divides by tp; 2 L all-reduces of (B + n) hidden vectors, in a ring

A mixed step is thus a prefill of the chunk and the decode tokens, plus the reading of the rows' KV
(the marginal rule, as in aiconfigurator). Knows nothing of padded buckets.
"""

from dataclasses import dataclass, field

from serving.costs.costs import Estimate, Link, StepModel
from serving.costs.hardware import HardwareSpec
from serving.costs.plane import Sample, fit_plane
from serving.costs.shape import ModelShape

PLANE_ROWS = (1, 4, 16, 64, 256)
PLANE_CONTEXTS = (128, 1024, 8192)
"""The rows, and the tokens behind each, over which `step_model` is fitted (ours)."""

NOTHING = Estimate(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class _Rates:
    """What the descriptions come to, in seconds.

    Of reading the weights, of a token's matmuls, of reading a token's KV, of a pair of tokens that
    attend to each other, and of what every step takes.
    """

    weights_s: float
    token_s: float
    kv_token_s: float
    pair_s: float
    fixed_s: float


@dataclass(frozen=True, slots=True)
class Roofline:
    """`Costs` of a worker of `tp` devices, from descriptions alone."""

    shape: ModelShape
    hardware: HardwareSpec
    tp: int
    _rates: _Rates = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Work out once what every prediction needs; routing a turn asks for a dozen of them."""
        shape, hardware = self.shape, self.hardware
        rates = _Rates(
            weights_s=shape.weight_bytes / (hardware.eta_w * hardware.bytes_per_s),
            token_s=2 * shape.matmul_params / (hardware.eta_f * hardware.flops_per_s),
            kv_token_s=shape.kv_bytes_per_token / (hardware.eta_kv * hardware.bytes_per_s),
            pair_s=shape.attention_flops / (hardware.eta_a * hardware.flops_per_s),
            fixed_s=shape.num_layers * hardware.layer_s + hardware.host_s,
        )
        object.__setattr__(self, "_rates", rates)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values that one token position takes."""
        return self.shape.kv_bytes_per_token

    def prefill(self, new_len: int, cached_len: int) -> Estimate:
        """Predict a step that only prefills `new_len` tokens on top of `cached_len`."""
        return self.mixed(0, 0, new_len, cached_len)

    def decode(self, rows: int, kv_tokens: int) -> Estimate:
        """Predict a step of `rows` decode rows that attend to `kv_tokens` tokens together."""
        return self.mixed(rows, kv_tokens, 0, 0)

    def decode_ahead(self, rows: int, kv_tokens: int, steps: int) -> list[float]:
        """Predict so many decode steps one after another, in seconds: each row grows by a token."""
        if not rows:
            return [0.0] * steps
        rates, tp = self._rates, self.tp
        # As `mixed` adds it up, to the last digit: only the tokens attended to change.
        matmuls_s = max(rates.token_s * rows, rates.weights_s)
        reduces_s = self._all_reduces(rows) if tp > 1 else 0.0
        return [
            (matmuls_s + attended * rates.kv_token_s) / tp + rates.fixed_s + reduces_s
            for attended in range(kv_tokens, kv_tokens + steps * rows, rows)
        ]

    def mixed(self, rows: int, kv_tokens: int, new_len: int, cached_len: int) -> Estimate:
        """Predict a decode step with a chunk in it; a step without tokens takes no time."""
        tokens = rows + new_len
        if tokens == 0:
            return NOTHING
        rates = self._rates
        matmuls_s = rates.token_s * tokens
        # No `max`: a dozen of these are asked for a route, and calls are most of their time.
        work = matmuls_s if matmuls_s > rates.weights_s else rates.weights_s
        work += kv_tokens * rates.kv_token_s
        if new_len:
            attention_s = rates.pair_s * new_len * (cached_len + new_len / 2)
            read_s = cached_len * rates.kv_token_s
            work += attention_s if attention_s > read_s else read_s
        seconds = work / self.tp + rates.fixed_s
        if self.tp > 1:
            seconds += self._all_reduces(tokens)
        return Estimate(seconds, self.hardware.error)

    def transfer(self, num_bytes: int, link: Link) -> Estimate:
        """Predict moving KV over a link; nothing takes no time."""
        if num_bytes == 0:
            return NOTHING
        return Estimate(link.seconds(num_bytes), self.hardware.error)

    def step_model(self) -> StepModel:
        """Return the plane that fits `decode` best over `PLANE_ROWS` and `PLANE_CONTEXTS`."""
        return fit_plane(
            [
                Sample(rows, rows * context, self.decode(rows, rows * context).seconds)
                for rows in PLANE_ROWS
                for context in PLANE_CONTEXTS
            ]
        )

    def _all_reduces(self, tokens: int) -> float:
        """Seconds of summing every layer's two outputs over the devices."""
        link = self.hardware.interconnect
        num_bytes = tokens * self.shape.hidden_size * self.shape.dtype_bytes
        ring = 2 * (self.tp - 1) / self.tp * num_bytes / link.bytes_per_s
        return 2 * self.shape.num_layers * (link.latency_s + ring)

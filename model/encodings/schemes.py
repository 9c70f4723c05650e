"""In which ways can the files hold a weight in few bits? One frozen value for each, as read.

All of them mean the same: `weight = (code - zero) * scale`, where groups of channels share zeros
and scales. Knows nothing of arrays or files: no JAX or numpy import.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Grain:
    """How many output and input channels share one scale; None: all of them."""

    rows: int | None
    columns: int | None

    def __str__(self) -> str:
        match self.rows, self.columns:
            case None, None:
                return "one scale a tensor"
            case 1, None:
                return "one scale an output channel"
            case 1, _:
                return f"groups of {self.columns}"
            case _:
                return f"blocks of {self.rows} x {self.columns}"


TENSOR = Grain(None, None)
CHANNEL = Grain(1, None)


@dataclass(frozen=True, slots=True)
class EightBits:
    """A tensor `weight` [out, in] of int8 or e4m3, and one of its scales, under one of `scales`.

    With `zero_points` there is `weight_zero_point` too, in the shape of the scales.
    """

    form: Literal["int8", "fp8"]
    grain: Grain
    scales: tuple[str, ...]
    zero_points: bool

    @property
    def kept_as(self) -> str | None:
        """The format of `model.quantised` that these values and scales are of; None: of none."""
        return _kept_as(self.form, self.grain, self.zero_points)

    def __str__(self) -> str:
        return f"{self.form}, {self.grain}"


@dataclass(frozen=True, slots=True)
class Packed:
    """`weight_packed` of compressed-tensors: words of int32 along the input channels.

    Lowest bits come first. Codes are moved up by half their range, and so are those of
    `weight_zero_point`, which lie along the output channels.
    """

    bits: Literal[4, 8]
    grain: Grain
    zero_points: bool

    @property
    def kept_as(self) -> str | None:
        """As in `EightBits`: four bits fit in eight."""
        return _kept_as("int8", self.grain, self.zero_points)

    def __str__(self) -> str:
        return f"int{self.bits}, {self.grain}"


@dataclass(frozen=True, slots=True)
class Gptq:
    """`qweight` [in / n, out] and `qzeros` [groups, out / n] in words of n codes; `g_idx` [in].

    From every code of `qzeros`, as words of 32 bits, `offset` was taken away: 1 in what GPTQ's
    tools call format v1.
    """

    bits: Literal[4, 8]
    group: int | None
    offset: Literal[0, 1]

    @property
    def kept_as(self) -> str | None:
        """None: zero points are known only once the files are read."""
        return None

    def __str__(self) -> str:
        return f"int{self.bits}, {Grain(1, self.group)}"


@dataclass(frozen=True, slots=True)
class Awq:
    """`qweight` [in, out / 8] and `qzeros` [groups, out / 8] in words of AWQ's own order."""

    group: int | None

    @property
    def kept_as(self) -> str | None:
        """None: as in `Gptq`."""
        return None

    def __str__(self) -> str:
        return f"int4, {Grain(1, self.group)}"


Scheme = EightBits | Packed | Gptq | Awq


def _kept_as(form: str, grain: Grain, zero_points: bool) -> str | None:
    return form if grain in (TENSOR, CHANNEL) and not zero_points else None

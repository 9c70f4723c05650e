"""What did the measured system add to the work itself? Fitted to runs at low load.

An unloaded turn takes what its prefill takes and what the prototype adds; each addition is a
parameter with a name, a meaning and bounds, so that none can hide an error of the model:

    request_s    client, HTTP and tokenizer, on every path
    hop_s        the second HTTP hop of turns that go through a prefill worker
    step_s       the engine's host, every step
    inflation    tokens really sent for a nominal one: the client wrote words, and never counted
    relost       share of the first reply that the second turn prefills again: its text does not
                 come back as the tokens that were sampled

Steps themselves are priced by the described hardware and are not fitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from serving.costs.costs import Link
from serving.costs.hardware import HardwareSpec
from serving.costs.models import KnownModel
from serving.costs.roofline import Roofline
from serving.sim.sweep import Run

LINK = Link(latency_s=0.0, bytes_per_s=150e9)
"""NVLink between the four GPUs, at what the paper says it reaches."""
STARTS = (0.03, 0.07, 0.001, 1.2, 0.5)
LOWEST = (0.0, 0.0, 0.0, 1.0, 0.0)
HIGHEST = (0.2, 0.3, 0.01, 3.0, 1.0)


@dataclass(frozen=True, slots=True)
class Additions:
    """What the measured system adds; see above. Seconds, and shares."""

    request_s: float
    hop_s: float
    step_s: float
    inflation: float
    relost: float

    def sent(self, nominal: int) -> int:
        """Tokens really sent for nominal ones, at least one."""
        return max(1, round(self.inflation * nominal))

    def priced(self, hardware: HardwareSpec) -> HardwareSpec:
        """Describe the hardware with the engine's host on it."""
        return replace(hardware, host_s=hardware.host_s + self.step_s)


def calibrate(runs: Sequence[Run], model: KnownModel, hardware: HardwareSpec) -> Additions:
    """Fit the additions to the lowest rate of these runs, by relative errors with few outliers.

    Raises ValueError without runs.
    """
    if not runs:
        raise ValueError("there is nothing to calibrate on")
    lowest = min(run.rate for run in runs)
    calm = [run for run in runs if run.rate == lowest]
    measured = np.array([(run.ttft1_s, run.ttft2_s, run.tpot2_s) for run in calm])

    def errors(values: NDArray[np.float64]) -> NDArray[np.float64]:
        additions = Additions(*values.tolist())
        costs = Roofline(model.shape, additions.priced(hardware), 1)
        expected = np.array([unloaded(run, additions, costs) for run in calm])
        return np.log(expected / measured).ravel()

    fit = least_squares(
        errors, STARTS, bounds=(LOWEST, HIGHEST), loss="soft_l1", f_scale=0.1, diff_step=1e-2
    )
    return Additions(*fit.x.tolist())


def unloaded(run: Run, additions: Additions, costs: Roofline) -> tuple[float, float, float]:
    """Return TTFT of both turns and the second one's time per token with nobody else there."""
    first, second = additions.sent(run.first[0]), additions.sent(run.second[0])
    reply = run.first[1]
    again = round(additions.relost * reply)
    through = not run.mix.is_replicas
    ttft1 = additions.request_s + costs.prefill(first, 0).seconds
    if through:
        ttft1 += additions.hop_s + _transfer(costs, first)
    if through and not run.mix.local:
        # The prefill worker has the first prompt only.
        ttft2 = costs.prefill(second + reply, first).seconds + additions.hop_s
        ttft2 += _transfer(costs, first + reply + second)
    else:
        ttft2 = costs.prefill(second + again, first + reply - again).seconds
    context = first + reply + second + run.second[1] // 2
    tpot2 = costs.decode(1, context).seconds
    return ttft1, additions.request_s + ttft2, tpot2


def _transfer(costs: Roofline, tokens: int) -> float:
    return costs.transfer(tokens * costs.kv_bytes_per_token, LINK).seconds

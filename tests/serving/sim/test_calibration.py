"""Calibration: additions put into made-up runs are found again, and only in the lowest rate."""

from dataclasses import replace

import pytest

from serving.costs.hardware import PRESETS
from serving.costs.models import find_model
from serving.costs.roofline import Roofline
from serving.sim.calibration import Additions, calibrate, unloaded
from serving.sim.sweep import TURN1, TURN2, Mix, Run

MODEL, HARDWARE = find_model("llama-3.1-8b", None), PRESETS["h100"]
ADDED = Additions(request_s=0.02, hop_s=0.06, step_s=0.002, inflation=1.5, relost=0.75)
MIXES = {
    "4R": Mix(0, 4, local=True),
    "2P_2D": Mix(2, 2, local=False),
    "2P_2pD": Mix(2, 2, local=True),
}


def runs(rate: float, additions: Additions) -> list[Run]:
    costs = Roofline(MODEL.shape, additions.priced(HARDWARE), 1)
    made: list[Run] = []
    for config, mix in MIXES.items():
        for one, first in TURN1.items():
            for other, second in TURN2.items():
                run = Run(config, mix, (one, other), first, second, rate, 5, 0.0, 0.0, 0.0)
                ttft1_s, ttft2_s, tpot2_s = unloaded(run, additions, costs)
                made.append(replace(run, ttft1_s=ttft1_s, ttft2_s=ttft2_s, tpot2_s=tpot2_s))
    return made


def test_what_was_added_is_found():
    busy = [replace(run, ttft1_s=9.0, tpot2_s=9.0) for run in runs(2.0, ADDED)]
    found = calibrate(runs(0.5, ADDED) + busy, MODEL, HARDWARE)
    for name in Additions.__dataclass_fields__:
        assert getattr(found, name) == pytest.approx(getattr(ADDED, name), rel=0.03), name


def test_some_outliers_change_little():
    made = runs(0.5, ADDED)
    spoilt = [replace(run, ttft2_s=10 * run.ttft2_s) if i % 18 == 0 else run
              for i, run in enumerate(made)]  # fmt: skip
    found = calibrate(spoilt, MODEL, HARDWARE)
    assert found.hop_s == pytest.approx(ADDED.hop_s, rel=0.1)
    assert found.step_s == pytest.approx(ADDED.step_s, rel=0.1)


def test_there_must_be_runs():
    with pytest.raises(ValueError, match="nothing to calibrate on"):
        calibrate([], MODEL, HARDWARE)

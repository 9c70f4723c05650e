"""By which step times a server decides: measured ones as they are, described ones padded."""

from pathlib import Path
from typing import Any

from serving.costs.padded import Padded
from serving.costs.profile import Profile
from serving.engine.build import settle, step_costs
from serving.flags import build_config
from serving.messages import Role

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "checkpoints" / "demo"
MEASURED = ROOT / "benchmarks" / "results" / "cpu.costs.json"


def costs(**flags: Any):
    return step_costs(settle(build_config(str(DEMO), {"compilation_cache": False, **flags})))


def test_a_described_step_takes_as_long_as_the_program_that_runs_it():
    found = costs(prefill_workers=1, decode_workers=1)
    prefill, decode = found[Role.PREFILL], found[Role.DECODE]
    assert prefill.prefill(1, 0) == prefill.prefill(32, 0) < prefill.prefill(33, 0)
    assert prefill.prefill(33, 0) == prefill.prefill(256, 0)
    assert decode.decode(2, 100) == decode.decode(4, 100) < decode.decode(5, 100)
    assert decode.mixed(1, 100, 1, 0) == decode.mixed(64, 100, 32, 0)


def test_workers_of_flexible_roles_have_the_programs_of_all():
    found = costs(prefill_workers=1, decode_workers=1, flexible_roles=True)
    assert found[Role.DECODE].mixed(1, 100, 1, 0) == found[Role.DECODE].mixed(16, 100, 32, 0)


def test_what_was_measured_ran_padded_already():
    assert type(costs(costs=str(MEASURED))[Role.BOTH]) is Profile
    assert type(costs()[Role.BOTH]) is Padded

"""Which costs a configuration gets, and what a wrong file says: one line with file and place."""

import json
from dataclasses import replace

import pytest

from serving.config import ConfigError, CostsConfig
from serving.costs.hardware import PRESETS
from serving.costs.make import described_device, make_costs
from serving.costs.measured import Grid, Measured, Origin, read_measured, write_measured
from serving.costs.profile import Profile
from serving.costs.roofline import Roofline
from serving.costs.shape import shape_of
from serving.messages import Role
from tests.serving.costs.test_profile import DECODE, GRID, PREFILL, TRANSFERS, WORKER
from tests.serving.costs.test_roofline import LLAMA_8B

MEASURED = Measured(
    Origin(shape_of(LLAMA_8B), "NVIDIA H200", "0.10.2"),
    "2026-01-31",
    (GRID, Grid(replace(WORKER, role=Role.PREFILL, tp=2), PREFILL, ())),
)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "costs.json"
    write_measured(path, MEASURED)
    return path


def make(path, *, model=LLAMA_8B, device="NVIDIA H200", tp=1, role=Role.BOTH):
    return make_costs(CostsConfig(costs=str(path)), shape_of(model), device, tp, role)


def test_without_a_file_the_devices_own_description_is_used():
    costs = make_costs(CostsConfig(), shape_of(LLAMA_8B), "NVIDIA H100 80GB HBM3", 2, Role.DECODE)
    assert costs == Roofline(shape_of(LLAMA_8B), PRESETS["h100"], 2)


def test_a_description_can_be_named():
    costs = make_costs(CostsConfig(hardware="tpu-v6e"), shape_of(LLAMA_8B), "cpu", 1, Role.DECODE)
    assert costs == Roofline(shape_of(LLAMA_8B), PRESETS["tpu-v6e"], 1)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"--hardware h1000 is unknown.*h100, a100"):
        make_costs(CostsConfig(hardware="h1000"), shape_of(LLAMA_8B), "cpu", 1, Role.BOTH)


def test_an_unknown_device_asks_for_a_name():
    with pytest.raises(ConfigError, match=r"'NVIDIA L4'.*--hardware"):
        make_costs(CostsConfig(), shape_of(LLAMA_8B), "NVIDIA L4", 1, Role.BOTH)


def test_what_was_written_is_read(path):
    assert read_measured(path) == MEASURED


def test_a_point_is_a_line(path):
    assert "        [4, 100, 0, 0, 20.0, 0.1],\n" in path.read_text()


def test_the_grid_of_the_role_and_degree_is_used(path):
    costs = make(path)
    assert isinstance(costs, Profile)
    assert costs.decode(4, 100).seconds == pytest.approx(20.0)
    assert costs.transfer(100, PRESETS["h200"].interconnect).seconds == pytest.approx(2.0)
    prefill = make(path, tp=2, role=Role.PREFILL)
    assert prefill.prefill(32, 512).seconds == pytest.approx(9.0)


def test_a_worker_that_was_not_measured_is_named(path):
    with pytest.raises(ConfigError) as caught:
        make(path, tp=4, role=Role.DECODE)
    assert str(caught.value) == (
        f"{path}: workers: a decode worker over 4 devices was not measured"
        " (found: both over 1, prefill over 2)"
    )


def test_another_model_is_named_by_the_size_that_differs(path):
    with pytest.raises(ConfigError) as caught:
        make(path, model=replace(LLAMA_8B, num_layers=16))
    assert str(caught.value) == (
        f"{path}: model.num_layers: measured for a model with 32, this one has 16"
    )


def test_another_device_is_named(path):
    with pytest.raises(ConfigError, match="device: measured on 'NVIDIA H200', this is 'cpu'"):
        make(path, device="cpu")


def test_an_unfinished_profile_says_how_to_finish_it(path):
    write_measured(path, replace(MEASURED, grids=(Grid(WORKER, DECODE, TRANSFERS),)))
    with pytest.raises(ConfigError, match=r"workers\[0\]\.steps: no prefill.*foretoken profile"):
        make(path)


def change(record, *place, value):
    *outer, last = place
    for key in outer:
        record = record[key]
    if value is None:
        del record[last]
    else:
        record[last] = value


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        (("version",), 2, "version: 2 is not known here, 1 is"),
        (("version",), None, "version: missing"),
        (("model", "num_heads"), "many", "model.num_heads: expected an integer, found 'many'"),
        (("model",), 3, "model: expected an object, found 3"),
        (("device",), None, "device: missing"),
        (("workers",), {}, "workers: expected a list"),
        (("workers", 1), 7, "workers[1]: expected an object, found 7"),
        (("workers", 0, "role"), "chef", "workers[0].role: 'chef' is no role of a worker"),
        (("workers", 0, "tp"), None, "workers[0].tp: missing"),
        (("workers", 0, "steps"), None, "workers[0].steps: expected a list"),
        (
            ("workers", 0, "steps", 2),
            [1, 2, 3],
            "workers[0].steps[2]: expected a list of 6 numbers, found [1, 2, 3]",
        ),
        (
            ("workers", 0, "steps", 2, 1),
            -4,
            "workers[0].steps[2]: expected whole numbers before the time, found [4, -4, 0, 0]",
        ),
        (
            ("workers", 0, "transfers", 1, 1),
            "fast",
            "workers[0].transfers[1]: expected a time and its deviation, found 'fast' and 0.0",
        ),
        (("workers", 0, "transfers", 1, 1), 0, "transfers[1]: a time of 0 s was not measured"),
    ],
)
def test_a_malformed_file_is_one_line_with_the_place(path, place, value, problem):
    record = json.loads(path.read_text())
    change(record, *place, value=value)
    path.write_text(json.dumps(record))
    with pytest.raises(ConfigError) as caught:
        make(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_json_or_not_there_is_one_line(path, tmp_path):
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"costs\.json: not valid JSON"):
        make(path)
    with pytest.raises(ConfigError, match=r"none\.json: no such file"):
        make(tmp_path / "none.json")


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="cannot be written"):
        write_measured(tmp_path / "none" / "costs.json", MEASURED)


def test_devices_that_are_only_described_are_those_of_the_hardware():
    assert described_device(CostsConfig(hardware="h200")) == "h200"
    with pytest.raises(ConfigError, match="h1000 is unknown"):
        described_device(CostsConfig(hardware="h1000"))

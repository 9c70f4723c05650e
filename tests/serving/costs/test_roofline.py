"""The roofline against sums done by hand, and what more work may never do to a time."""

from dataclasses import astuple, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import ModelConfig, RopeConfig
from serving.costs.costs import Costs, Link, StepModel
from serving.costs.hardware import PRESETS, HardwareSpec, preset_for
from serving.costs.models import find_model
from serving.costs.plane import Sample, fit_plane
from serving.costs.roofline import Roofline
from serving.costs.shape import ModelShape, shape_of

LLAMA_8B = ModelConfig(
    family="llama",
    vocab_size=128_256,
    num_layers=32,
    hidden_size=4096,
    intermediate_size=14_336,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    rope=RopeConfig(theta=500_000.0, scaling=None),
    norm_eps=1e-5,
    tie_embeddings=False,
    qkv_bias=False,
    out_bias=False,
    mlp_bias=False,
    qk_norm=False,
    sliding_window=None,
    max_position=131_072,
    dtype="bfloat16",
    eos_ids=(),
    bos_id=None,
)
# Numbers that make every term a round one: weights 1 s, KV 0.1 s a token, 0.25 s a token's matmuls.
SHAPE = ModelShape(
    num_layers=2,
    hidden_size=8,
    num_heads=1,
    num_kv_heads=1,
    head_dim=4,
    dtype_bytes=2,
    matmul_params=100,
    weight_bytes=200,
    kv_bytes_per_token=16,
)
HARDWARE = HardwareSpec(
    name="by-hand",
    device_kinds=(),
    flops_per_s=1600.0,
    bytes_per_s=400.0,
    memory_bytes=1e9,
    eta_w=0.5,
    eta_kv=0.4,
    eta_f=0.5,
    eta_a=0.25,
    layer_s=0.5,
    host_s=2.0,
    interconnect=Link(latency_s=0.125, bytes_per_s=64.0),
    error=0.1,
)
ONE = Roofline(SHAPE, HARDWARE, tp=1)
FIXED = 2 * 0.5 + 2.0
H200 = Roofline(shape_of(LLAMA_8B), PRESETS["h200"], tp=1)


def test_a_model_is_counted_without_its_input_embedding():
    shape = shape_of(LLAMA_8B)
    assert shape.matmul_params == 7_504_658_432
    assert shape.weight_bytes == 15_009_316_864
    assert shape.kv_bytes_per_token == 131_072


@pytest.mark.parametrize("quantize", ["int8", "fp8"])
def test_quantised_layers_are_read_at_a_byte_a_weight_and_multiplied_as_before(quantize):
    shape = shape_of(replace(LLAMA_8B, quantize=quantize))
    head = 128256 * 4096
    assert shape.matmul_params == 7_504_658_432
    assert shape.weight_bytes == 7_504_658_432 - head + 2 * head
    found = Roofline(shape, PRESETS["h200"], tp=1)
    saved = (15_009_316_864 - shape.weight_bytes) / (0.67 * 4.8e12)
    decode = H200.decode(1, 1000).seconds - found.decode(1, 1000).seconds
    assert decode == pytest.approx(saved)
    assert found.prefill(8192, 0) == H200.prefill(8192, 0)


def test_a_known_model_is_as_large_as_its_configuration_says():
    for quantize in (None, "int8"):
        known = find_model("llama-3.1-8b", quantize)
        config = replace(LLAMA_8B, quantize=quantize)
        assert known.shape == shape_of(config)
        assert known.weight_bytes == known.shape.weight_bytes + 128256 * 4096 * 2


def test_few_rows_cost_what_reading_weights_and_kv_costs():
    assert ONE.decode(1, 5).seconds == pytest.approx(1 + 5 * 0.1 + FIXED)
    assert ONE.decode(4, 5).seconds == pytest.approx(1 + 5 * 0.1 + FIXED)


def test_many_rows_cost_what_their_arithmetic_costs():
    assert ONE.decode(10, 20).seconds == pytest.approx(10 * 0.25 + 2.0 + FIXED)


def test_a_prefill_is_its_matmuls_and_its_triangle_of_attention():
    # 4 L H d = 32 operations for each of 8 * 8 / 2 pairs, at 400 a second
    assert ONE.prefill(8, 0).seconds == pytest.approx(8 * 0.25 + 32 * 32 / 400 + FIXED)


def test_an_append_attends_to_its_past():
    pairs = 8 * 100 + 32
    assert ONE.prefill(8, 100).seconds == pytest.approx(8 * 0.25 + 32 * pairs / 400 + FIXED)


def test_one_token_on_a_long_past_costs_reading_that_past():
    assert ONE.prefill(1, 1000).seconds == pytest.approx(1 + 1000 * 0.1 + FIXED)


def test_a_mixed_step_reads_its_weights_once():
    mixed = ONE.mixed(2, 10, 8, 0).seconds
    assert mixed == pytest.approx(10 * 0.25 + 32 * 32 / 400 + 10 * 0.1 + FIXED)
    assert mixed < ONE.decode(2, 10).seconds + ONE.prefill(8, 0).seconds - FIXED


def test_a_step_without_tokens_takes_no_time():
    assert ONE.mixed(0, 0, 0, 0).seconds == 0


def test_more_devices_share_the_work_and_pay_for_all_reduces():
    two = Roofline(SHAPE, HARDWARE, tp=2)
    ring = 2 * (1 / 2) * (3 * 8 * 2) / 64
    reduces = 2 * 2 * (0.125 + ring)
    assert two.decode(3, 5).seconds == pytest.approx((1 + 0.5) / 2 + FIXED + reduces)


def test_a_transfer_is_latency_and_bytes():
    assert ONE.transfer(100, Link(0.5, 50)).seconds == pytest.approx(2.5)
    assert ONE.transfer(0, Link(0.5, 50)).seconds == 0


@pytest.mark.parametrize(
    ("rows", "context", "ms"),
    [(1, 1024, 4.9), (32, 1024, 6.4), (32, 4096, 9.2), (128, 1024, 9.8), (128, 4096, 20.8)],
)
def test_the_h200_comes_within_a_tenth_of_its_published_decode_steps(rows, context, ms):
    assert H200.decode(rows, rows * context).seconds == pytest.approx(ms / 1000, rel=0.1)


@pytest.mark.parametrize(("tokens", "ms"), [(512, 10.5), (2048, 42.2), (8192, 188.8)])
def test_the_h200_comes_within_a_tenth_of_its_published_prefills(tokens, ms):
    assert H200.prefill(tokens, 0).seconds == pytest.approx(ms / 1000, rel=0.1)


@pytest.mark.parametrize("spec", PRESETS.values(), ids=PRESETS)
def test_shares_are_shares_and_times_are_times(spec):
    assert all(0 < share <= 1 for share in (spec.eta_w, spec.eta_kv, spec.eta_f, spec.eta_a))
    assert spec.flops_per_s > 0
    assert spec.bytes_per_s > 0
    assert spec.error > 0


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("TPU v5 lite", "tpu-v5e"),
        ("TPU v6 lite", "tpu-v6e"),
        ("cpu", "cpu"),
    ],
)
def test_devices_are_known_by_what_they_call_themselves(kind, name):
    spec = preset_for(kind)
    assert spec is not None
    assert spec.name == name


def test_an_unknown_device_is_not_guessed():
    for kind in ("NVIDIA L4", "NVIDIA RTX A1000 Laptop GPU", "NVIDIA GH200 480GB"):
        assert preset_for(kind) is None


work = st.tuples(
    st.integers(0, 300), st.integers(0, 100_000), st.integers(0, 4096), st.integers(0, 30_000)
)
MODELS = st.sampled_from([ONE, Roofline(SHAPE, HARDWARE, tp=4), H200])


@settings(max_examples=60)
@given(MODELS, work, st.integers(0, 3), st.integers(1, 5000))
def test_more_work_never_takes_less_time(costs: Costs, amounts, which, more):
    rows, kv_tokens, new_len, cached_len = amounts
    kv_tokens = max(kv_tokens, rows) if rows else 0
    before = [rows, kv_tokens, new_len, cached_len if new_len else 0]
    after = list(before)
    after[which] += more
    assert costs.mixed(*after).seconds >= costs.mixed(*before).seconds


def test_the_plane_follows_decode_steps_where_memory_bounds_them():
    plane = H200.step_model()
    for rows, context in ((1, 1024), (16, 1024), (64, 1024), (64, 8192)):
        tokens = rows * context
        fitted = plane.base_s + plane.per_row_s * rows + plane.per_token_s * tokens
        assert fitted == pytest.approx(H200.decode(rows, tokens).seconds, rel=0.12)


def test_a_plane_is_recovered_from_its_own_samples():
    plane = StepModel(2.0, 0.5, 0.01)
    samples = [
        Sample(rows, kv, 2.0 + 0.5 * rows + 0.01 * kv) for rows in (1, 4, 9) for kv in (10, 50, 900)
    ]
    assert astuple(fit_plane(samples)) == pytest.approx(astuple(plane))


def test_no_coefficient_of_a_plane_is_negative():
    samples = [Sample(1, 100, 3.0), Sample(2, 100, 2.0), Sample(3, 100, 1.0), Sample(3, 9, 1.0)]
    plane = fit_plane(samples)
    assert min(plane.base_s, plane.per_row_s, plane.per_token_s) >= 0
    assert max(plane.base_s, plane.per_row_s, plane.per_token_s) > 0


def test_a_faster_device_is_never_slower():
    fast = Roofline(SHAPE, replace(HARDWARE, bytes_per_s=800.0), tp=1)
    assert fast.decode(1, 50).seconds < ONE.decode(1, 50).seconds


@pytest.mark.parametrize("tp", [1, 4])
@given(rows=st.integers(0, 300), kv_tokens=st.integers(0, 10**6), steps=st.integers(0, 9))
def test_steps_ahead_are_priced_as_each_by_itself(tp: int, rows: int, kv_tokens: int, steps: int):
    costs = Roofline(find_model("llama-3.1-8b", None).shape, PRESETS["h100"], tp=tp)
    single = [costs.decode(rows, kv_tokens + i * rows).seconds for i in range(steps)]
    assert costs.decode_ahead(rows, kv_tokens, steps) == single

"""Well-known models, and how small their KV may be kept."""

from serving.costs.models import find_model


def test_eight_bits_halve_the_kv_of_a_model_and_nothing_else():
    model = find_model("llama-3.1-8b", None)
    small = model.with_kv_as("float8_e4m3fn")
    assert small.shape.kv_bytes_per_token == model.shape.kv_bytes_per_token / 2 == 65_536
    assert small.shape.weight_bytes == model.shape.weight_bytes
    assert model.with_kv_as(None) == model == model.with_kv_as("bfloat16")

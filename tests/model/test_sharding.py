import jax
import pytest
from jax.sharding import PartitionSpec as P

from model import kv_pages
from model.config import ModelConfig, RopeConfig
from model.parameters import abstract_params
from model.sharding import (
    DECODE,
    PREFILL,
    TENSOR,
    ShardingError,
    check_degree,
    param_partitions,
    partition,
)

CONFIG = ModelConfig(
    family="llama",
    vocab_size=48,
    num_layers=2,
    hidden_size=32,
    intermediate_size=40,
    num_heads=8,
    num_kv_heads=4,
    head_dim=8,
    rope=RopeConfig(theta=10000.0, scaling=None),
    norm_eps=1e-5,
    tie_embeddings=False,
    qkv_bias=True,
    out_bias=False,
    mlp_bias=False,
    qk_norm=True,
    sliding_window=None,
    max_position=512,
    dtype="float32",
    eos_ids=(1,),
    bos_id=0,
)


@pytest.mark.parametrize("table", [PREFILL, DECODE], ids=["prefill", "decode"])
def test_heads_mlp_and_vocabulary_are_split_and_nothing_else(table):
    split = param_partitions(CONFIG, table)
    assert split["embed"] == P(TENSOR, None)
    assert split["head"] == P(TENSOR, None)
    assert split["final_norm"] == P(None)
    assert split["layers"]["qkv"] == P(None, None, TENSOR, None, None)
    assert split["layers"]["qkv_bias"] == P(None, TENSOR, None, None)
    assert split["layers"]["o"] == P(None, TENSOR, None, None, None)
    assert split["layers"]["gate_up"] == P(None, None, None, TENSOR)
    assert split["layers"]["down"] == P(None, TENSOR, None)
    assert partition(kv_pages.AXES, table) == P(None, None, None, TENSOR, None, None)


def test_every_parameter_has_a_partition_of_its_own_rank():
    split = param_partitions(CONFIG, DECODE)
    ranks = jax.tree.map(lambda x: x.ndim, abstract_params(CONFIG))
    assert jax.tree.map(len, split, is_leaf=lambda x: isinstance(x, P)) == ranks


def test_one_mesh_axis_cannot_split_two_dimensions():
    with pytest.raises(ShardingError, match="mlp, vocab claim one mesh axis twice"):
        partition(("mlp", "vocab"), DECODE)


def test_an_axis_without_a_rule_is_an_error():
    with pytest.raises(ShardingError, match="'experts'"):
        partition(("layers", "experts"), DECODE)


@pytest.mark.parametrize(
    ("degree", "problem"),
    [(3, "degree 3 .* 4 key-value heads"), (8, "degree 8 .* 4 key-value heads")],
)
def test_a_degree_that_does_not_divide_names_both_numbers(degree, problem):
    with pytest.raises(ShardingError, match=problem):
        check_degree(CONFIG, degree)


def test_fitting_degrees_pass():
    for degree in (1, 2, 4):
        check_degree(CONFIG, degree)

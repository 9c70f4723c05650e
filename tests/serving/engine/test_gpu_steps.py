"""Steps whose attention is the GPU's: the same tokens, in the same programs, as everywhere."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from model.attention.gpu import Gpu
from model.attention.paged import BLOCKED
from model.generate import Sampling, generate, prompt_logits
from model.parameters import init_params
from model.sharding import DECODE, TENSOR, param_shardings
from serving.config import ConfigError
from serving.engine.build import settle
from serving.engine.executor import JaxExecutor
from serving.engine.programs import Moves, Site
from serving.flags import build_config
from serving.messages import Role
from tests.serving.engine import test_executor as steps
from tests.support.compiles import no_compiles
from tests.support.one_executor import placed

pytestmark = pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")


DEMO = str(Path(__file__).parents[3] / "checkpoints" / "demo")


def test_a_server_refuses_a_backend_that_cannot_serve_in_one_line():
    def settled(attention):
        flags = {"attention": attention, "length_head": "none"}
        return settle(build_config(DEMO, flags)).attention

    assert str(settled("auto")) == str(settled("blocked")) == "blocked"
    with pytest.raises(ConfigError) as refused:
        settled("gpu")
    assert str(refused.value) == (
        "--attention gpu cannot serve: it needs a GPU, and JAX runs on cpu here; "
        "leave it out for one that can"
    )
    with pytest.raises(ConfigError, match="--attention flash is unknown; use auto or reference"):
        settled("flash")


@pytest.fixture(scope="module", params=[1, 2], ids=["whole", "split"])
def interpreted(request):
    """On one device and on two, each with half of the key-value heads."""
    return steps.make(Role.BOTH, 0, request.param, backend=Gpu(interpret=True, programs=8))


@pytest.mark.slow
def test_interpreted_steps_say_what_the_oracle_says(interpreted):
    steps.test_greedy_tokens_equal_the_oracle_for_any_chunking(interpreted, 7)
    steps.test_rows_and_chunks_of_different_turns_share_steps(interpreted)


@pytest.mark.slow
@pytest.mark.parametrize("backend", [BLOCKED, Gpu(interpret=True, programs=8)], ids=str)
def test_pages_of_eight_bits_say_what_the_oracle_says_with_them(backend):
    config = replace(steps.CONFIG, kv_dtype="float8_e4m3fn")
    mesh = Mesh(np.array(jax.devices()[:1]), (TENSOR,))
    params = jax.device_put(steps.PARAMS, param_shardings(config, mesh, DECODE))
    site = Site(config, mesh, DECODE, steps.SIZES, backend)
    assert site.page_bytes * 4 == replace(site, config=steps.CONFIG).page_bytes
    executor = JaxExecutor(params, site, Role.BOTH, moves=Moves.TO_WORKERS)
    executor.warm_up(lambda done: None)
    tokens = steps.prompt(19)
    first = steps.prefill(executor, 0, tokens, steps.pages(1), cut=7).chunk_ids
    moved = steps.pages(17)
    executor.scatter(executor.gather(range(1, 17)), range(17, 33))
    got = first + steps.ids(steps.decode(executor, 0, 19, moved, 29))
    assert got == list(generate(steps.PARAMS, config, tokens, Sampling(), 30).tokens)
    rounded, exact = (prompt_logits(steps.PARAMS, c, tokens) for c in (config, steps.CONFIG))
    assert 0.01 < np.abs(rounded - exact).max() < 5


@pytest.mark.slow
def test_unrolled_layers_say_the_same(monkeypatch):
    """As a GPU gets them."""
    monkeypatch.setattr(Site, "unrolls", True)
    executor = steps.make(Role.BOTH, 0, 1)
    steps.test_rows_and_chunks_of_different_turns_share_steps(executor)


@pytest.mark.gpu
def test_on_a_device_nothing_compiles_after_warm_up_and_the_oracle_agrees(gpu):
    """With heads as large as the kernels need them."""

    config = replace(steps.CONFIG, head_dim=64)
    params = init_params(config, jax.random.key(0))
    mesh = Mesh(np.array([gpu]), (TENSOR,))
    site = Site(config, mesh, DECODE, steps.SIZES, Gpu(interpret=False))
    executor = JaxExecutor(placed(params, site), site, Role.BOTH, moves=Moves.TO_WORKERS)
    executor.warm_up(lambda done: None)
    tokens = steps.prompt(19)
    with no_compiles():
        first = steps.prefill(executor, 0, tokens, steps.pages(1), cut=7).chunk_ids
        got = first + steps.ids(steps.decode(executor, 0, 19, steps.pages(1), 29))
    assert got == list(generate(params, config, tokens, Sampling(), 30).tokens)


@pytest.mark.gpu
def test_on_a_device_a_step_makes_no_copy_of_the_pool_in_between(gpu):
    config = replace(steps.CONFIG, head_dim=64)
    steps.check_that_a_step_copies_no_pool(gpu, config, Gpu(interpret=False))

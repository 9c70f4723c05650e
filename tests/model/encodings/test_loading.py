"""A checkpoint in few bits is what its definition says, on any devices, and its sizes are known."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from model.config import load_config
from model.generate import prompt_logits
from model.parameters import declare, leaves, weight_bytes
from model.quantised import Quantised, dequantised
from model.sharding import DECODE, param_shardings
from model.weights import load_params
from tests.model.checkpoints import load
from tests.model.encodings.writing import FORMATS, KEPT, written


def load_split(directory: Path, degree: int, quantize: str | None = None) -> tuple[Any, Any]:
    """Load a checkpoint to so many devices, as it is or to be rounded."""
    config = load_config(directory, quantize=quantize)
    mesh = Mesh(np.array(jax.devices()[2 : 2 + degree]), ("tp",))
    return config, load_params(
        directory, config, param_shardings(config, mesh, DECODE), "float32", None
    )


def whole_weights(params: Any, config: Any) -> dict[str, np.ndarray]:
    """Return parameters by their paths, in float32 where they are kept in eight bits."""
    declared = dict(leaves(declare(config)))
    return {
        path: np.asarray(dequantised(leaf, declared[path].summed_places))
        if isinstance(leaf, Quantised)
        else np.asarray(leaf)
        for path, leaf in leaves(params)
    }


@pytest.mark.parametrize("family", ["llama-biases", "qwen3"])
@pytest.mark.parametrize("form", FORMATS)
def test_a_checkpoint_is_the_whole_one_that_it_stands_for(tmp_path: Path, family: str, form: str):
    few, whole = written(family, FORMATS[form], tmp_path)
    config, params = load_split(few, 1)
    plain_config, plain = load(whole)
    assert (config.quantize is not None) == (form in KEPT)
    found = whole_weights(params, config)
    for path, wanted in leaves(plain):
        np.testing.assert_array_equal(found[path], wanted, err_msg=path)
    _, split = load_split(few, 2)
    jax.tree.map(
        lambda one, two: np.testing.assert_array_equal(np.asarray(one), np.asarray(two)),
        params,
        split,
    )
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(params)) == weight_bytes(config)
    tokens = list(range(3, 19))
    np.testing.assert_allclose(
        prompt_logits(params, config, tokens), prompt_logits(plain, plain_config, tokens), atol=1e-4
    )

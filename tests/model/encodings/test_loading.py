"""A checkpoint in few bits is what its definition says, on any devices, and its sizes are known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from model.config import load_config
from model.generate import prompt_logits
from model.parameters import declare, leaves, map_parameters, weight_bytes
from model.quantised import FORMATS as EIGHT_BITS
from model.quantised import Quantised, dequantised, largest, quantise
from model.sharding import DECODE, param_shardings
from model.weights import load_params
from tests.model.checkpoints import edit_json, load
from tests.model.encodings.writing import FORMATS, KEPT, MODULES, Tensors, written


def load_split(directory: Path, degree: int, quantize: str | None = None) -> tuple[Any, Any]:
    """Load a checkpoint to so many devices, as it is or to be rounded."""
    config = load_config(directory, quantize=quantize)
    mesh = Mesh(np.array(jax.devices()[2 : 2 + degree]), ("tp",))
    shardings = param_shardings(config, mesh, DECODE)
    return config, load_params(directory, config, shardings, "float32", None)


def unpacked(params: Any, config: Any) -> dict[str, np.ndarray]:
    """Return parameters by their paths, in float32 where they are kept in eight bits."""
    declared = dict(leaves(declare(config)))
    return {
        path: np.asarray(dequantised(leaf, declared[path].summed_places))
        if isinstance(leaf, Quantised)
        else np.asarray(leaf)
        for path, leaf in leaves(params)
    }


def same(one: Any, other: Any) -> None:
    """Check that two trees hold the same arrays."""
    jax.tree.map(
        lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), one, other
    )


@pytest.mark.parametrize(
    ("form", "family"),
    [
        *((form, "llama-biases") for form in FORMATS),
        *(pytest.param(form, "qwen3", marks=pytest.mark.slow) for form in FORMATS),
    ],
)
def test_a_checkpoint_is_the_whole_one_that_it_stands_for(tmp_path: Path, family: str, form: str):
    few, whole = written(family, FORMATS[form], tmp_path)
    config, params = load_split(few, 1)
    plain_config, plain = load(whole)
    assert (config.quantize is not None) == (form in KEPT)
    found = unpacked(params, config)
    for path, wanted in leaves(plain):
        np.testing.assert_array_equal(found[path], wanted, err_msg=path)
    for degree in (2, 4) if config.num_kv_heads == 4 else (2,):
        same(params, load_split(few, degree)[1])
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(params)) == weight_bytes(config)
    tokens = list(range(3, 19))
    np.testing.assert_allclose(
        prompt_logits(params, config, tokens), prompt_logits(plain, plain_config, tokens), atol=1e-4
    )


@pytest.mark.parametrize("form", KEPT)
def test_values_in_eight_bits_stay_as_they_are(tmp_path: Path, form: str):
    stored: Tensors = {}
    few, _ = written("llama", FORMATS[form], tmp_path, lambda tensors, _: stored.update(tensors))
    config, params = load_split(few, 1)
    down, gate_up = params["layers"]["down"], params["layers"]["gate_up"]
    assert down.values.dtype == EIGHT_BITS[str(config.quantize)]
    scale = stored["model.layers.1.mlp.down_proj.weight_scale"].astype(np.float32)
    np.testing.assert_array_equal(down.scale[1], np.broadcast_to(scale.ravel(), 32))
    scale = stored["model.layers.1.mlp.up_proj.weight_scale"].astype(np.float32)
    np.testing.assert_array_equal(gate_up.scale[1, 1], np.broadcast_to(scale.ravel(), 48))
    if (values := stored.get("model.layers.1.mlp.up_proj.weight")) is not None:
        np.testing.assert_array_equal(gate_up.values[1, :, 1], values.T)


@pytest.mark.parametrize(
    ("form", "quantize"),
    [("gptq, ordered", "int8"), ("fp8, blocks", "fp8"), ("int-quantized", "fp8"), ("awq", "int8")],
)
def test_what_is_to_be_rounded_is_rounded_from_what_it_stands_for(
    tmp_path: Path, form: str, quantize: str
):
    few, whole = written("llama", FORMATS[form], tmp_path)
    config, params = load_split(few, 1, quantize)
    assert config.quantize == quantize
    same(params, load_split(whole, 1, quantize)[1])
    same(params, load_split(few, 2, quantize)[1])


def test_the_format_that_it_has_already_changes_nothing(tmp_path: Path):
    few, _ = written("llama", FORMATS["float-quantized, channels"], tmp_path)
    same(load_split(few, 1, "fp8")[1], load_split(few, 1)[1])


def test_in_groups_of_a_channel_eight_bits_are_rounded_once(tmp_path: Path):
    few, whole = written("llama", FORMATS["int-quantized, groups"], tmp_path)
    _, params = load_split(few, 1, "int8")
    weight = np.asarray(load(whole)[1]["layers"]["down"])
    same(params["layers"]["down"], quantise(weight, largest(weight, (1,)), (1,), "int8"))


AXES = ("layers", "embed", "kv_heads", "qkv_group", "queries", "head_dim", "mlp", "gate_up")


@settings(max_examples=12, deadline=None)
@given(
    form=st.sampled_from(
        ["awq", "gptq, ordered", "fp8, blocks", "pack-quantized, zero points", "fp8, tensors"]
    ),
    split=st.dictionaries(st.sampled_from(AXES), st.sampled_from(["x", "y"]), max_size=3),
)
def test_any_sharding_holds_the_same_values(
    tmp_path_factory: pytest.TempPathFactory, form: str, split: dict[str, str]
):
    few, whole = written("llama", FORMATS[form], tmp_path_factory.mktemp("any"))
    mesh = Mesh(np.array(jax.devices()[2:6]).reshape(2, 2), ("x", "y"))
    config = replace(load_config(few), quantize=None)

    def sharding(_: str, parameter: Any) -> NamedSharding:
        used: list[str | None] = []
        for axis, size in zip(parameter.axes, parameter.shape, strict=True):
            to = split.get(axis)
            used.append(None if to in used or size % 2 else to)
        return NamedSharding(mesh, P(*used))

    shardings = map_parameters(sharding, declare(config))
    same(load_params(few, config, shardings, "float32", None), load(whole)[1])


DOWN, UP = "model.layers.0.mlp.down_proj", "model.layers.0.mlp.up_proj"


def with_down_whole(tensors: Tensors, plain: Tensors) -> None:
    """Put the whole weight of one module in the place of that in few bits."""
    for key in [key for key in tensors if key.startswith(f"{DOWN}.")]:
        del tensors[key]
    tensors[f"{DOWN}.weight"] = plain[f"{DOWN}.weight"]


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("int-quantized", {"ignore": ["lm_head", DOWN]}),
        ("int-quantized", {"ignore": ["re:.*layers.0.mlp.down.*"]}),
        ("fbgemm_fp8", {"modules_to_not_convert": ["layers.0.mlp.down_proj"]}),
        ("fp8, tensors", {"ignored_layers": ["re:.*layers.0.mlp.down_proj"]}),
        ("gptq", {"dynamic": {f"-:{DOWN}": {}}}),
        ("awq", {"modules_to_not_convert": [DOWN]}),
        ("awq", {}),
    ],
)
def test_where_one_matmul_is_whole_all_are(tmp_path: Path, form: str, said: dict[str, Any]):
    few, whole = written("llama", FORMATS[form], tmp_path, with_down_whole)
    edit_json(few / "config.json", lambda c: c["quantization_config"].update(said))
    config, params = load_split(few, 1)
    assert config.quantize is None
    same(params, load(whole)[1])


def test_a_head_in_few_bits_becomes_whole(tmp_path: Path):
    form = FORMATS["int-quantized"]

    def change(tensors: Tensors, plain: Tensors) -> None:
        head = form.write(tensors.pop("lm_head.weight"))
        tensors.update({f"lm_head.{end}": value for end, value in head.tensors.items()})
        plain["lm_head.weight"] = head.weight

    few, whole = written("llama", form, tmp_path, change)
    edit_json(few / "config.json", lambda c: c["quantization_config"].update(ignore=[]))
    config, params = load_split(few, 2)
    assert config.quantize == "int8"
    np.testing.assert_array_equal(params["head"], load(whole)[1]["head"])


@pytest.mark.parametrize("form", ["awq", "pack-quantized", "int-quantized"])
def test_a_packed_copy_of_a_table_that_is_the_head_too_is_not_read(tmp_path: Path, form: str):
    def change(tensors: Tensors, plain: Tensors) -> None:
        head = FORMATS[form].write(plain["model.embed_tokens.weight"].astype(np.float32))
        head.tensors.pop("weight", None)  # which, if it is there, has to be the table's
        tensors.update({f"lm_head.{end}": value for end, value in head.tensors.items()})

    few, whole = written("qwen2", FORMATS[form], tmp_path, change)
    config, params = load_split(few, 1)
    assert config.tie_embeddings
    np.testing.assert_array_equal(params["embed"], load(whole)[1]["embed"])


def test_modules_of_several_schemes(tmp_path: Path):
    four, eight = FORMATS["pack-quantized"], FORMATS["float-quantized, channels"]
    first = eight.settings["config_groups"]["group_0"] | {
        "targets": ["re:.*self_attn.*"],
        "format": "float-quantized",
    }
    second = four.settings["config_groups"]["group_0"] | {"format": "pack-quantized"}
    for order in ({"a": first, "b": second}, {"a": second, "b": first}):
        target = tmp_path / str(order["a"] is first)

        def change(tensors: Tensors, plain: Tensors) -> None:
            for module in MODULES:
                if "self_attn" in module:
                    own = eight.write(plain[f"{module}.weight"])
                    for key in [key for key in tensors if key.startswith(f"{module}.")]:
                        del tensors[key]
                    tensors.update({f"{module}.{end}": v for end, v in own.tensors.items()})
                    plain[f"{module}.weight"] = own.weight

        few, whole = written("llama", four, target, change)
        edit_json(
            few / "config.json",
            lambda c, order=order: c["quantization_config"].update(
                config_groups=order, format="mixed-precision"
            ),
        )
        same(load_split(few, 2)[1], load(whole)[1])


@pytest.mark.parametrize(
    ("form", "end"),
    [
        ("awq", "scales"),
        ("gptq", "scales"),
        ("int-quantized", "weight_scale"),
        ("pack-quantized", "weight_scale"),
        ("fp8, blocks", "weight_scale_inv"),
    ],
)
def test_a_scale_of_0_makes_zeros_of_what_it_is_of(tmp_path: Path, form: str, end: str):
    """And half of a tensor may have no other scales: that of one of two devices."""
    half = 48 // 2

    def change(tensors: Tensors, plain: Tensors) -> None:
        scales = tensors[f"{UP}.{end}"]
        by_row = scales.T if end == "scales" else scales
        each = 20 if form == "fp8, blocks" else 1
        by_row[: half // each] = 0
        plain[f"{UP}.weight"][: half // each * each] = 0

    few, whole = written("llama", FORMATS[form], tmp_path, change)
    for degree in (1, 2):
        config, params = load_split(few, degree)
        wanted = load(whole)[1]["layers"]["gate_up"]
        np.testing.assert_array_equal(unpacked(params, config)["layers/gate_up"], wanted)


def test_what_is_of_activations_and_caches_is_not_read(tmp_path: Path):
    extra = {
        "model.layers.0.self_attn.k_scale": np.ones(1, np.float32),
        "model.layers.0.self_attn.v_proj.output_scale": np.ones(1, np.float32),
        "model.layers.1.mlp.down_proj.input_scale": np.ones(1, np.float32),
        "model.layers.1.mlp.gate_proj.act_scale": np.ones(1, np.float32),
        "model.layers.1.mlp.up_proj.activation_scale": np.ones(1, np.float32),
        "model.layers.1.mlp.up_proj.input_scale_ub": np.ones(1, np.float32),
        "model.layers.1.mlp.down_proj.weight_zero_point": np.zeros((32, 1), np.int8),
    }
    few, whole = written(
        "llama", FORMATS["int-quantized"], tmp_path, lambda tensors, _: tensors.update(extra)
    )
    config, params = load_split(few, 1)
    np.testing.assert_array_equal(
        unpacked(params, config)["layers/down"], load(whole)[1]["layers"]["down"]
    )

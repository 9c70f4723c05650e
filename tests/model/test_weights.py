"""Weights land where they belong, on any sharding; every key of a checkpoint is accounted for."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P
from safetensors.numpy import load_file, save_file

from model.config import load_config
from model.errors import CheckpointError
from model.parameters import declare, leaves, map_parameters
from model.weights import checkpoint_tensors, load_params
from tests.model.checkpoints import (
    GOLDEN,
    NAMES,
    copied,
    edit_json,
    edit_tensors,
    everywhere,
    load,
)


def stored(directory: Path) -> dict[str, np.ndarray]:
    """Return every tensor of a checkpoint directory."""
    return {
        key: value
        for path in directory.glob("*.safetensors")
        for key, value in load_file(path).items()
    }


def test_the_merged_layout():
    _, params = load(GOLDEN / "qwen2")
    tensors = stored(GOLDEN / "qwen2")
    attention = "model.layers.1.self_attn"
    # K 2, G 2, H 8: query head 3 is the second query of key-value head 1; row 5 of it.
    qkv, bias = params["layers"]["qkv"], params["layers"]["qkv_bias"]
    np.testing.assert_array_equal(
        qkv[1, :, 1, 1, 5], tensors[f"{attention}.q_proj.weight"][3 * 8 + 5]
    )
    np.testing.assert_array_equal(
        qkv[1, :, 1, 2, 5], tensors[f"{attention}.k_proj.weight"][1 * 8 + 5]
    )
    np.testing.assert_array_equal(
        qkv[1, :, 1, 3, 5], tensors[f"{attention}.v_proj.weight"][1 * 8 + 5]
    )
    assert bias[1, 1, 3, 5] == tensors[f"{attention}.v_proj.bias"][1 * 8 + 5]
    np.testing.assert_array_equal(
        params["layers"]["o"][1, 1, 1, 5], tensors[f"{attention}.o_proj.weight"][:, 3 * 8 + 5]
    )
    np.testing.assert_array_equal(
        params["layers"]["gate_up"][1, :, 1], tensors["model.layers.1.mlp.up_proj.weight"].T
    )


@pytest.mark.parametrize("name", NAMES)
def test_export_is_the_inverse_of_loading(name: str):
    config, params = load(GOLDEN / name)
    exported = dict(checkpoint_tensors(params, config))
    original = stored(GOLDEN / name)
    assert exported.keys() == original.keys()
    for key, value in original.items():
        np.testing.assert_array_equal(exported[key], value, err_msg=key)


AXES = ("layers", "embed", "kv_heads", "qkv_group", "queries", "head_dim", "mlp", "gate_up")


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(["llama", "llama-biases", "mistral"]),
    split=st.dictionaries(st.sampled_from(AXES), st.sampled_from(["x", "y"]), max_size=3),
)
def test_any_sharding_holds_the_same_values(name: str, split: dict[str, str]):
    mesh = Mesh(np.array(jax.devices()[2:6]).reshape(2, 2), ("x", "y"))
    config, whole = load(GOLDEN / name)

    def sharding(_: str, parameter: Any) -> NamedSharding:
        used: list[str | None] = []
        for axis, size in zip(parameter.axes, parameter.shape, strict=True):
            to = split.get(axis)
            used.append(None if to in used or size % 2 else to)
        return NamedSharding(mesh, P(*used))

    shardings = map_parameters(sharding, declare(config))
    params = load_params(GOLDEN / name, config, shardings, "float32", None)
    for (path, found), (_, wanted) in zip(leaves(params), leaves(whole), strict=True):
        assert found.sharding == dict(leaves(shardings))[path]
        np.testing.assert_array_equal(found, wanted, err_msg=path)


def test_a_mesh_without_the_first_device_leaves_it_empty():
    config = load_config(GOLDEN / "llama")
    shardings = everywhere(config, SingleDeviceSharding(jax.devices()[5]))
    params = load_params(GOLDEN / "llama", config, shardings, "float32", None)
    assert {leaf.device for leaf in jax.tree.leaves(params)} == {jax.devices()[5]}


def test_the_stored_dtype_may_differ_from_the_wanted_one(tmp_path: Path):
    directory = copied("llama", tmp_path)
    edit_tensors(
        directory / "model.safetensors",
        lambda tensors: tensors.update({k: v.astype(np.float16) for k, v in tensors.items()}),
    )
    _, params = load(directory, dtype="bfloat16")
    wanted = stored(directory)["model.norm.weight"].astype(jax.numpy.bfloat16)
    np.testing.assert_array_equal(params["final_norm"], wanted)


def test_progress_counts_every_byte_once():
    config = load_config(GOLDEN / "mistral")
    mesh = Mesh(np.array(jax.devices()[:2]), ("x",))
    calls: list[tuple[int, int]] = []
    shardings = everywhere(config, NamedSharding(mesh, P()))
    params = load_params(
        GOLDEN / "mistral", config, shardings, "bfloat16", lambda *call: calls.append(call)
    )
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert {call[1] for call in calls} == {total}
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert done[-1] == total


def test_tensors_that_follow_from_the_config_are_ignored(tmp_path: Path):
    directory = copied("qwen2", tmp_path)
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32),
        "model.rotary_emb.inv_freq": np.ones(4, np.float32),
    }

    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors.update(extra)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()

    edit_tensors(directory / "model.safetensors", change)
    _, params = load(directory)
    assert "head" not in params


def test_a_table_that_is_the_head_too_may_have_the_name_of_either(tmp_path: Path):
    directory = copied("qwen2", tmp_path)

    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")

    edit_tensors(directory / "model.safetensors", change)
    _, params = load(directory)
    np.testing.assert_array_equal(params["embed"], load(GOLDEN / "qwen2")[1]["embed"])
    edit_json(directory / "config.json", lambda c: c.update(tie_word_embeddings=False))
    assert "model.embed_tokens.weight: missing" in str(refused(directory))


def refused(directory: Path) -> CheckpointError:
    """Return the error of loading a damaged checkpoint, after checking that it is one line."""
    with pytest.raises(CheckpointError) as caught:
        load(directory)
    assert "\n" not in str(caught.value)
    return caught.value


UP = "model.layers.1.mlp.up_proj.weight"
DAMAGES = [
    ("llama", lambda t: t.pop(UP), "", f"{UP}: missing"),
    (
        "llama",
        lambda t: t.update(surplus=t[UP].copy()),
        "model.safetensors",
        "surplus: not used by the llama family",
    ),
    (
        "llama",
        lambda t: t.update({UP: t[UP][:40].copy()}),
        "model.safetensors",
        f"{UP}: has shape (40, 32), config.json says (48, 32)",
    ),
    (
        "llama",
        lambda t: t.update({UP: t[UP].T.copy()}),
        "model.safetensors",
        f"{UP}: has shape (32, 48), config.json says (48, 32)",
    ),
    (
        "llama",
        lambda t: t.update({UP: t[UP].astype(np.int8)}),
        "model.safetensors",
        f"{UP}: dtype I8 is not supported",
    ),
    (
        "llama",
        lambda t: t.update({"model.layers.2.mlp.up_proj.weight": t[UP].copy()}),
        "model.safetensors",
        "model.layers.2.mlp.up_proj.weight: not used",
    ),
    (
        "llama",
        lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": np.ones(32, np.float32)}),
        "model.safetensors",
        "model.layers.0.self_attn.q_proj.bias: not used",
    ),
    (
        "qwen2",
        lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 1}),
        "model.safetensors",
        "lm_head.weight: differs from model.embed_tokens.weight",
    ),
    ("qwen2", lambda t: t.pop("model.layers.0.self_attn.k_proj.bias"), "", "k_proj.bias: missing"),
    ("qwen3", lambda t: t.pop("model.layers.0.self_attn.k_norm.weight"), "", "k_norm.weight: miss"),
]


@pytest.mark.parametrize(("name", "damage", "file", "problem"), DAMAGES)
def test_damaged_tensors_are_named(tmp_path: Path, name: str, damage: Any, file: str, problem: str):
    directory = copied(name, tmp_path)
    edit_tensors(directory / "model.safetensors", damage)
    error = refused(directory)
    assert error.path == directory / file
    assert problem in str(error)


@pytest.mark.parametrize("kept", [0, 4, 1000, -1])
def test_a_truncated_file(tmp_path: Path, kept: int):
    directory = copied("llama", tmp_path)
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert str(refused(directory)).startswith(f"{path}: not a complete safetensors file")


def test_a_pointer_in_place_of_the_weights(tmp_path: Path):
    directory = copied("llama", tmp_path)
    path = directory / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert str(refused(directory)).startswith(f"{path}: a pointer of Git LFS")


def test_a_truncated_shard(tmp_path: Path):
    directory = copied("mistral", tmp_path)
    path = directory / "model-00003-of-00004.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert refused(directory).path == path


def test_no_weights_and_too_many(tmp_path: Path):
    directory = copied("llama", tmp_path)
    path = directory / "model.safetensors"
    path.rename(directory / "weights.safetensors")
    load(directory)
    save_file({}, directory / "more.safetensors")
    assert "2 weight files" in str(refused(directory))
    for each in directory.glob("*.safetensors"):
        each.unlink()
    assert str(refused(directory)) == f"{directory}: no *.safetensors weights in it"


INDEX = "model.safetensors.index.json"


def test_an_index_that_names_an_absent_file(tmp_path: Path):
    directory = copied("mistral", tmp_path)
    (directory / "model-00002-of-00004.safetensors").unlink()
    error = refused(directory)
    assert error.path == directory / INDEX
    assert "model.layers.0.input_layernorm.weight: names the file 'model-00002" in error.problem


def test_an_index_cannot_leave_the_directory(tmp_path: Path):
    directory = copied("mistral", tmp_path)
    copied("llama", tmp_path)
    edit_json(
        directory / INDEX,
        lambda index: index["weight_map"].update(outside="../llama/model.safetensors"),
    )
    assert "outside: names the file '../llama/model.safetensors'" in str(refused(directory))


def test_an_index_that_names_an_absent_key(tmp_path: Path):
    directory = copied("mistral", tmp_path)
    file = "model-00002-of-00004.safetensors"
    edit_json(directory / INDEX, lambda index: index["weight_map"].update(ghost=file))
    assert str(refused(directory)) == f"{directory / file}: ghost: missing, though indexed here"


def test_a_tensor_in_two_shards(tmp_path: Path):
    directory = copied("mistral", tmp_path)
    norm = stored(directory)["model.norm.weight"]
    for shard in (1, 2, 3, 4):
        path = directory / f"model-0000{shard}-of-00004.safetensors"
        edit_tensors(path, lambda tensors: tensors.update({"model.norm.weight": norm}))
    assert "model.norm.weight: also in model-00001-of-00004" in str(refused(directory))


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_a_malformed_index(tmp_path: Path, text: str):
    directory = copied("mistral", tmp_path)
    (directory / INDEX).write_text(text)
    assert refused(directory).path == directory / INDEX


def test_nothing_is_placed_before_everything_is_checked(tmp_path: Path):
    directory = copied("llama", tmp_path)
    edit_tensors(directory / "model.safetensors", lambda tensors: tensors.pop("lm_head.weight"))
    config = load_config(directory)
    calls: list[tuple[int, int]] = []
    shardings = everywhere(config, SingleDeviceSharding(jax.devices()[0]))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: missing"):
        load_params(directory, config, shardings, "float32", lambda *call: calls.append(call))
    assert calls == []


def test_the_goldens_are_small():
    for name in NAMES:
        size = sum(path.stat().st_size for path in (GOLDEN / name).iterdir())
        assert size < 130_000, json.dumps({name: size})

"""Checkpoint directories that tests copy and damage, and the shortest way to load one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding
from safetensors.numpy import load_file, save_file

from model.config import ModelConfig, load_config
from model.parameters import Params, abstract_params
from model.weights import load_params

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = ("llama", "llama-biases", "mistral", "qwen2", "qwen3")


def copied(name: str, target: Path) -> Path:
    """Copy a golden checkpoint to a directory that may be changed."""
    return Path(shutil.copytree(GOLDEN / name, target / name))


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the object in a JSON file in place."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def edit_tensors(path: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Change the tensors in a safetensors file in place."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def everywhere(config: ModelConfig, sharding: Sharding) -> dict[str, Any]:
    """Return a tree of shardings that are all the same."""
    return jax.tree.map(lambda _: sharding, abstract_params(config))


def load(directory: Path, dtype: str = "float32") -> tuple[ModelConfig, Params]:
    """Load a checkpoint to the first device."""
    config = load_config(directory, dtype=dtype)
    shardings = everywhere(config, SingleDeviceSharding(jax.devices()[0]))
    return config, load_params(directory, config, shardings, dtype, None)

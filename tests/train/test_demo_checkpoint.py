import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding
from tokenizers import Tokenizer

from model.config import load_config
from model.parameters import declare, map_parameters
from model.weights import load_params
from train.decode import Decoding
from train.evaluate import HELD_OUT_SEED, below_target, generate
from train.tasks.conversation import FOLLOW_UP_FAMILY, examples
from train.tasks.families import FAMILIES
from train.tasks.problem import extract_answer
from train.tokenizer import CHAT_TEMPLATE, END

DEMO = Path(__file__).parents[2] / "checkpoints" / "demo"


def test_the_shipped_checkpoint_is_complete_and_small():
    config = load_config(DEMO)
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    assert config.vocab_size == tokenizer.get_vocab_size()
    assert config.eos_ids == (tokenizer.token_to_id(END),)
    assert config.num_kv_heads % 4 == 0
    assert (DEMO / "model.safetensors").stat().st_size <= 8 * 2**20
    settings = json.loads((DEMO / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == CHAT_TEMPLATE


def test_the_shipped_accuracy_table_covers_every_family_and_meets_the_targets():
    table = json.loads((DEMO / "accuracy.json").read_text())
    assert set(table["families"]) == {*FAMILIES, FOLLOW_UP_FAMILY}
    assert table["prompts_per_family"] >= 100
    assert below_target(table) == []


@pytest.mark.slow
def test_the_shipped_model_answers_prompts_of_another_seed():
    config = load_config(DEMO)
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    device = SingleDeviceSharding(jax.devices()[0])
    shardings = map_parameters(lambda *_: device, declare(config))
    params = load_params(DEMO, config, shardings, jnp.float32, None)
    asked = list(examples(10, HELD_OUT_SEED + 7))
    how = Decoding(temperature=0.0, seed=0, rows=64, max_total=4096)
    replies = generate(params, config, tokenizer, asked, how)
    right = [extract_answer(text) == e.answer for e, (text, _) in zip(asked, replies, strict=True)]
    assert sum(right) / len(right) >= 0.85

"""What does a checkpoint say to one prompt, without a server? Files in, text out, the slow way."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from model.chat_template import ChatTemplateError
from model.config import load_config
from model.generate import Sampling, generate
from model.parameters import abstract_params
from model.tokenizer import ChatTokenizer, load_tokenizer
from model.weights import load_params
from serving.config import ConfigError, ModelSource, require


def generate_text(
    checkpoint: Path,
    *,
    prompt: str,
    chat: bool,
    max_tokens: int,
    source: ModelSource,
    **sampling: Any,
) -> dict[str, Any]:
    """Load a checkpoint and answer one prompt; `sampling` holds fields of `generate.Sampling`.

    Raises CheckpointError for what is wrong with the checkpoint, ConfigError for a prompt that it
    cannot take.
    """
    dtype = None if source.dtype == "auto" else source.dtype
    config = load_config(checkpoint, dtype=dtype, quantize=source.weight_format)
    tokenizer = load_tokenizer(checkpoint)
    ids = _prompt_ids(tokenizer, prompt, chat=chat)
    require(
        len(ids) + max_tokens <= config.max_position,
        f"--max-tokens {max_tokens}: with {len(ids)} of the prompt they exceed the model's own"
        f" limit of {config.max_position} tokens",
    )
    here = SingleDeviceSharding(jax.devices()[0])
    shardings = jax.tree.map(lambda _: here, abstract_params(config))
    params = load_params(checkpoint, config, shardings, jnp.dtype(config.dtype), None)
    stop_ids = tokenizer.eos_ids
    try:
        reply = generate(params, config, ids, Sampling(stop_ids=stop_ids, **sampling), max_tokens)
    except ValueError as error:
        raise ConfigError(f"--prompt: {error}; the tokenizer is another model's") from error
    return {
        "text": tokenizer.decode(list(reply.tokens), skip_special_tokens=True),
        "token_ids": list(reply.tokens),
        "prompt_token_ids": list(ids),
        "finish_reason": "stop" if reply.stopped else "length",
        "logprobs": list(reply.logprobs),
    }


def _prompt_ids(tokenizer: ChatTokenizer, prompt: str, *, chat: bool) -> list[int]:
    """Return the tokens of a prompt; raises ConfigError if there are none, or no template."""
    if not chat:
        ids = tokenizer.encode(prompt, add_special_tokens=True)
        require(bool(ids), "--prompt has no token for the model to go on from; give it some text")
        return ids
    message = [{"role": "user", "content": prompt}]
    try:
        text = tokenizer.apply_chat_template(message, add_generation_prompt=True)
    except ChatTemplateError as error:
        raise ConfigError(f"--chat: {error}; leave it out") from error
    return tokenizer.encode(text, add_special_tokens=False)

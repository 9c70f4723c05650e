"""How often is the model right on prompts it was not trained on, and how long are its replies?

Exact match of the answer read out of each greedy reply, per task family. Small families repeat
prompts of the training stream, so the share of unseen prompts is reported beside each figure.
"""

from collections.abc import Iterable, Set
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from model.config import ModelConfig
from model.parameters import Params
from train.decode import Decoding, decode
from train.tasks.conversation import FOLLOW_UP_FAMILY, Example, examples
from train.tasks.problem import extract_answer
from train.tokenizer import encode_prompt

HELD_OUT_SEED = 1_000_003
ROWS = 32
MAX_TOTAL = 4096
QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)
SAMPLED_PROMPTS, SAMPLES, TEMPERATURE = 4, 8, 0.8


def evaluate(
    params: Params,
    config: ModelConfig,
    tokenizer: Tokenizer,
    prompts: int,
    trained_on: Set[str],
) -> dict[str, Any]:
    """Measure `prompts` held-out prompts per family; `trained_on` holds the openings of training.

    A follow-up counts as unseen when the opening of its topic is unseen.
    """
    asked = list(examples(prompts, HELD_OUT_SEED))
    greedy = Decoding(temperature=0.0, seed=0, rows=ROWS, max_total=MAX_TOTAL)
    replies = generate(params, config, tokenizer, asked, greedy)
    families = {}
    for family in dict.fromkeys(example.family for example in asked):
        pairs = [pair for pair in zip(asked, replies, strict=True) if pair[0].family == family]
        families[family] = _measure(pairs, trained_on)
    spread = _spread(params, config, tokenizer)
    for family, measured in spread.items():
        families[family] |= measured
    return {"seed": HELD_OUT_SEED, "prompts_per_family": prompts, "families": families}


def generate(
    params: Params,
    config: ModelConfig,
    tokenizer: Tokenizer,
    asked: Iterable[Example],
    how: Decoding,
) -> list[tuple[str, int]]:
    """Return the text of each reply and its length in tokens, the end token included."""
    ids = [encode_prompt(tokenizer, example.messages) for example in asked]
    replies = decode(params, config, ids, how)
    return [(tokenizer.decode(reply), len(reply) + 1) for reply in replies]


def _measure(pairs: list[tuple[Example, tuple[str, int]]], trained_on: Set[str]) -> dict[str, Any]:
    right = np.array([extract_answer(reply) == example.answer for example, (reply, _) in pairs])
    unseen = np.array([_opening(example) not in trained_on for example, _ in pairs])
    lengths = np.quantile([length for _, (_, length) in pairs], QUANTILES)
    return {
        "exact": round(float(right.mean()), 4),
        "unseen": round(float(unseen.mean()), 4),
        "exact_unseen": round(float(right[unseen].mean()), 4) if unseen.any() else None,
        "reply_tokens": [round(float(length)) for length in lengths],
    }


def _opening(example: Example) -> str:
    return next(content for role, content in example.messages if role == "user")


def _spread(params: Params, config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Sample each of a few prompts several times; how do length and answer vary?"""
    asked = [e for e in examples(SAMPLED_PROMPTS, HELD_OUT_SEED + 1) for _ in range(SAMPLES)]
    how = Decoding(temperature=TEMPERATURE, seed=1, rows=ROWS, max_total=MAX_TOTAL)
    replies = generate(params, config, tokenizer, asked, how)
    spread = {}
    for family in dict.fromkeys(example.family for example in asked):
        pairs = [pair for pair in zip(asked, replies, strict=True) if pair[0].family == family]
        right = [extract_answer(reply) == example.answer for example, (reply, _) in pairs]
        lengths = np.array([length for _, (_, length) in pairs]).reshape(-1, SAMPLES)
        spread[family] = {
            "sampled_exact": round(float(np.mean(right)), 4),
            "sampled_deviation": round(float(lengths.std(axis=1).mean()), 2),
        }
    return spread


def format_table(result: dict[str, Any]) -> str:
    """Return the measurements as a Markdown table."""
    lines = [
        "| family | exact match | unseen prompts | exact on unseen "
        "| reply tokens min/p10/p50/p90/max | sampled exact | deviation of sampled lengths |",
        "|---|---|---|---|---|---|---|",
    ]
    for family, row in result["families"].items():
        unseen = "-" if row["exact_unseen"] is None else f"{row['exact_unseen']:.1%}"
        lengths = "/".join(str(length) for length in row["reply_tokens"])
        lines.append(
            f"| {family} | {row['exact']:.1%} | {row['unseen']:.0%} | {unseen} | {lengths} "
            f"| {row['sampled_exact']:.1%} | {row['sampled_deviation']:.1f} |"
        )
    return "\n".join(lines)


def below_target(result: dict[str, Any]) -> list[str]:
    """Name the families under the project's targets: 90 % each, 80 % for follow-ups."""
    return [
        family
        for family, row in result["families"].items()
        if row["exact"] < (0.8 if family == FOLLOW_UP_FAMILY else 0.9)
    ]

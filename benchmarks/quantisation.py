"""How much worse is a model with weights in eight bits? On text that it was not trained on.

`python -m benchmarks.quantisation --out FILE` runs a model of the demo tasks over held-out
conversations in every precision and format, and compares what it gives the tokens:

    logprob_error   mean magnitude of the difference of a token's log-probabilities, in nats
    worst_1_percent the 99th percentile of that magnitude
    top1_agreement  share of places at which the most likely token is the same
    loss            mean negative log-probability, in nats

Compared with float32, and weights in eight bits also with none in the same dtype. The tokens of
replies and of questions are reported apart: of the former the model is almost certain, so that
little can change them; the latter its training did not count, and it is not certain of any.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tqdm import tqdm

from benchmarks.machine import describe_code, describe_machine
from model.config import load_config
from model.generate import prompt_logits
from model.parameters import abstract_params, weight_bytes
from model.weights import load_params
from train.evaluate import HELD_OUT_SEED
from train.packing import draw_topics
from train.tasks.conversation import Turn
from train.tokenizer import END, encode_prompt, token_id

DTYPES = ("float32", "bfloat16")
FORMATS = (None, "int8", "fp8")
LONGEST = 1024  # tokens of a conversation; longer ones are left out
DEMO = Path("checkpoints/demo")


class Text(NamedTuple):
    """A conversation's tokens, and which of them a reply is made of (its end included)."""

    tokens: list[int]
    replied: NDArray[np.bool_]


class Scores(NamedTuple):
    """What a model says of tokens, all texts in one row."""

    logprob: NDArray[np.float32]  # of the token that is there
    best: NDArray[np.int32]  # the token that is most likely there

    def at(self, places: NDArray[np.bool_]) -> "Scores":
        """Keep some of the tokens."""
        return Scores(self.logprob[places], self.best[places])


def encode(tokenizer: Tokenizer, turns: Sequence[Turn]) -> Text:
    """Write a conversation as the chat template does."""
    tokens: list[int] = []
    replied: list[bool] = []
    for turn in turns:
        asked = encode_prompt(tokenizer, [("user", turn.question)])
        reply = [*tokenizer.encode(turn.reply).ids, token_id(tokenizer, END)]
        tokens += asked + reply
        replied += [False] * len(asked) + [True] * len(reply)
    return Text(tokens, np.array(replied))


def held_out(tokenizer: Tokenizer, count: int) -> Iterator[Text]:
    """Yield conversations of a stream that training did not draw from; short problems may recur."""
    for turns in draw_topics(HELD_OUT_SEED, 0, count):
        text = encode(tokenizer, turns)
        if len(text.tokens) <= LONGEST:
            yield text


def score(checkpoint: Path, texts: Sequence[Text], dtype: str, form: str | None) -> Scores:
    """Run the model, in one precision and format, over all texts, with progress."""
    config = load_config(checkpoint, dtype=dtype, quantize=form)
    here = SingleDeviceSharding(jax.devices()[0])
    shardings = jax.tree.map(lambda _: here, abstract_params(config))
    params = load_params(checkpoint, config, shardings, jnp.dtype(dtype), None)
    logprobs: list[NDArray[np.float32]] = []
    best: list[NDArray[np.int32]] = []
    for text in tqdm(texts, unit="text", desc=f"{dtype} {form}"):
        scores = np.asarray(prompt_logits(params, config, text.tokens))[:-1]
        top = scores.max(1)
        total = top + np.log(np.exp(scores - top[:, None]).sum(1))
        logprobs.append(scores[np.arange(len(scores)), text.tokens[1:]] - total)
        best.append(scores.argmax(1).astype(np.int32))
    return Scores(np.concatenate(logprobs), np.concatenate(best))


def compare(reference: Scores, found: Scores) -> dict[str, float]:
    """Say how far `found` is from `reference`."""
    error = np.abs(found.logprob - reference.logprob)
    return {
        "logprob_error": float(error.mean()),
        "worst_1_percent": float(np.quantile(error, 0.99)),
        "top1_agreement": float((found.best == reference.best).mean()),
    }


def measure(checkpoint: Path, count: int) -> dict[str, Any]:
    """Measure every precision and format on `count` conversations."""
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    texts = list(held_out(tokenizer, count))
    wanted = [(dtype, form) for dtype in DTYPES for form in FORMATS]
    scores = {key: score(checkpoint, texts, *key) for key in wanted}
    replied = np.concatenate([text.replied[1:] for text in texts])
    kinds = {"replies": replied, "questions": ~replied}
    rows: list[dict[str, Any]] = []
    for dtype, form in wanted:
        config = load_config(checkpoint, dtype=dtype, quantize=form)
        row: dict[str, Any] = {
            "dtype": dtype,
            "quantize": form or "none",
            "weight_bytes": weight_bytes(config),
        }
        for kind, places in kinds.items():
            found = scores[dtype, form].at(places)
            row[kind] = {"loss": float(-found.logprob.mean())}
            for other in {"float32": (DTYPES[0], None), dtype: (dtype, None)}.items():
                if other[1] != (dtype, form):
                    row[kind][f"against_{other[0]}"] = compare(scores[other[1]].at(places), found)
        rows.append(row)
    tokens = {kind: int(places.sum()) for kind, places in kinds.items()}
    return {"conversations": len(texts), "tokens": tokens, "rows": rows}


def text_of(found: dict[str, Any]) -> str:
    """Return the rows as a Markdown table, each against float32."""
    lines = [
        f"{found['conversations']} held-out conversations; tokens: {found['tokens']}",
        "",
        "| dtype | quantize | tokens of | weight bytes | loss | log-prob. error | top-1 the same |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        for kind in found["tokens"]:
            apart = row[kind].get("against_float32")
            errors = ["-", "-"]
            if apart is not None:
                errors = [f"{apart['logprob_error']:.5f}", f"{apart['top1_agreement']:.3%}"]
            cells = [row["dtype"], row["quantize"], kind, f"{row['weight_bytes']:,}"]
            lines.append("| " + " | ".join([*cells, f"{row[kind]['loss']:.5f}", *errors]) + " |")
    return "\n".join(lines)


@click.command()
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEMO,
    show_default=True,
)
@click.option("--conversations", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
def main(checkpoint: Path, conversations: int, out: Path) -> None:
    """Measure what weights in eight bits cost a model of the demo tasks."""
    jax.config.update("jax_platforms", "cpu")
    found = {
        "machine": describe_machine(),
        "code": describe_code(Path.cwd()),
        **measure(checkpoint, conversations),
    }
    out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    click.echo(text_of(found))


if __name__ == "__main__":
    main()

"""How fast is `transformers` with the same checkpoint? A process that answers lines.

Runs in an interpreter with torch and transformers, and imports nothing else of this project. A
question has `rows`, `prompt_len`, `reply_len` and a `seed`; every row is a prompt of random token
ids, so that no padding is needed, and greedy replies have exactly the tokens asked for.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]


def main(checkpoint: Path) -> None:
    """Answer questions from standard input until it ends."""
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    model.eval()
    for line in sys.stdin:
        print(json.dumps(generate(model, json.loads(line))), flush=True)


def generate(model: Any, question: dict[str, int]) -> dict[str, Any]:
    """Generate one batch; the time holds the prompts' prefill too."""
    torch.manual_seed(question["seed"])
    shape = (question["rows"], question["prompt_len"])
    prompts = torch.randint(0, model.config.vocab_size, shape)
    reply_len = question["reply_len"]
    start = time.perf_counter()
    with torch.inference_mode():
        sequences = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=reply_len,
            min_new_tokens=reply_len,
            do_sample=False,
        )
    wall_s = time.perf_counter() - start
    tokens = sequences.numel() - prompts.numel()
    if tokens != question["rows"] * reply_len:
        raise RuntimeError(f"{tokens} tokens instead of {question['rows']} x {reply_len}")
    return {
        "tokens": tokens,
        "wall_s": wall_s,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))

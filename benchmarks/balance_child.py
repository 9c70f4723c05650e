"""What does rebalancing do to two decode workers? A process with both that answers lines.

A question has `policy`, `seed` and `seconds`. Chats of the demo model's own tasks begin within
`seconds` (`skewed_load`) and are played to their ends. Replies are greedy and end where the model
ends them, so every policy serves the same tokens, and the length head reads what it was made for.
"""

import asyncio
import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import uvloop

from benchmarks.engine import Engines, Recorder, greedy
from benchmarks.skewed_load import Chat, chats
from benchmarks.spread import Steps, client_figures, company, predicted_itl, step_figures
from model.tokenizer import ChatTokenizer, load_tokenizer
from serving.engine.loop import EngineLoop
from serving.messages import End
from serving.request import SessionId, Slo, Turn, TurnId

LONGEST = 600
"""Tokens of a reply at most: above the longest list, in case that the model fails to end one."""


async def measure(
    engines: Engines, tokenizer: ChatTokenizer, policy: str, seed: int, seconds: float
) -> dict[str, Any]:
    """Play the chats of a seed under a rebalancing policy."""
    recorder, steps = Recorder(), Steps()
    async with (
        engines.running(recorder, steps, rebalance_policy=policy) as engine,
        asyncio.TaskGroup() as all_,
    ):
        for number, chat in enumerate(chats(seed, seconds)):
            all_.create_task(_play(engine, tokenizer, f"chat-{number}", chat))
    kinds = [decision.kind for _, decision in recorder.decisions]
    return {
        **client_figures(recorder.times),
        **predicted_itl(steps.seen),
        **step_figures(steps.seen),
        **company(steps.seen),
        "turns": len(recorder.times),
        "moves": kinds.count("moved"),
        "moves_failed": kinds.count("move_failed"),
        "moved_bytes": recorder.moved_bytes,
    }


async def _play(engine: EngineLoop, tokenizer: ChatTokenizer, name: str, chat: Chat) -> None:
    """Ask a chat's questions one after another, each with the whole conversation before it."""
    await asyncio.sleep(chat.start_s)
    messages: list[dict[str, str]] = []
    for number, ask in enumerate(chat.asks):
        await asyncio.sleep(ask.think_s)
        messages.append({"role": "user", "content": ask.question})
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        turn = Turn(
            id=TurnId(f"{name}.{number}"),
            session=SessionId(name),
            tokens=tuple(tokenizer.encode(text, add_special_tokens=False)),
            sampling=replace(greedy(LONGEST), stop_ids=tokenizer.eos_ids),
            slo=Slo(None, None),
            priority=0,
            salt="",
            number=number,
        )
        reply = [
            sample.token
            async for item in engine.submit(turn)
            if not isinstance(item, End)
            for sample in item.samples
        ]
        answer = tokenizer.decode(reply, skip_special_tokens=True)
        messages.append({"role": "assistant", "content": answer})


def main(checkpoint: Path) -> None:
    """Answer questions from standard input until it ends."""
    jax.config.update("jax_platforms", "cpu")
    tokenizer = load_tokenizer(checkpoint)
    with contextlib.redirect_stdout(sys.stderr):
        engines = Engines(checkpoint, prefill_workers=0, decode_workers=2)
    for line in sys.stdin:
        question = json.loads(line)
        with contextlib.redirect_stdout(sys.stderr):
            answer = uvloop.run(measure(engines, tokenizer, **question))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

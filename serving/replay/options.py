"""Which flags does a replay take, beside those of its workload?"""

from collections.abc import Callable, Mapping
from typing import Any

import click

from serving.bounds import INT32
from serving.replay.settings import PROMPTS, TOKENS, ReplayConfig, base_url
from serving.sim.options import SECONDS

Command = Callable[..., Any]

VOCAB = 500
"""Token ids below it are in the vocabulary of every model, the demo's 512 included."""


def replay_options(command: Command) -> Command:
    """Add the flags that say which server is asked, and how."""
    add = [
        click.option(
            "--url",
            default="http://localhost:8000",
            show_default=True,
            help="Address of a server with OpenAI's API.",
        ),
        click.option("--model", default=None, help="Model's name; else the first one listed."),
        click.option("--api-key", default=None, help="Bearer key, if the server wants one."),
        click.option(
            "--prompts",
            type=click.Choice(PROMPTS),
            default=TOKENS,
            show_default=True,
            help="Token ids, with exact lengths, or chats, for servers that return no token ids.",
        ),
        click.option(
            "--vocab",
            type=click.IntRange(2, INT32),
            default=VOCAB,
            show_default=True,
            help="Made-up text has token ids below it.",
        ),
        click.option(
            "--slo-ttft", type=SECONDS, default=None, help="Target to the first token, s."
        ),
        click.option("--slo-tpot", type=SECONDS, default=None, help="Target per token, s."),
        click.option(
            "--concurrency-limit",
            type=click.IntRange(min=1),
            default=None,
            help="Most turns in the server at once; others are sent late. None: no limit.",
        ),
    ]
    for option in reversed(add):
        command = option(command)
    return command


def replay_config(values: Mapping[str, Any]) -> ReplayConfig:
    """Take what `replay_options` parsed, and the seed; raises ConfigError."""
    return ReplayConfig(
        url=base_url(values["url"]),
        model=values["model"],
        api_key=values["api_key"],
        prompts=values["prompts"],
        vocab=values["vocab"],
        seed=values["seed"],
        slo_ttft_s=values["slo_ttft"],
        slo_tpot_s=values["slo_tpot"],
        concurrency_limit=values["concurrency_limit"],
    )

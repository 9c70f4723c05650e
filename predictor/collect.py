"""Which replies does a model give, and what did its hidden states look like on the way?

`python -m predictor.collect CHECKPOINT --out DIR --sessions N` plays sessions through the engine,
at several temperatures and several times each, and writes records of them. An interrupted run goes
on behind its last shard. A program on top of everything: nobody imports it.
"""

import asyncio
import itertools
import json
import os
import random
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import exp, log
from pathlib import Path
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding
from tqdm import tqdm

from model.config import ModelConfig
from model.errors import CheckpointError
from model.parameters import Params, abstract_params
from model.sampling_defaults import read_sampling_defaults
from model.tokenizer import ChatTokenizer, load_tokenizer
from model.weights import load_params
from predictor.dealing import Asked, asked_of, missing, shards
from predictor.fingerprint import checkpoint_fingerprint, tokenizer_fingerprint
from predictor.play import LostReply, Reply, Script, left_open, play
from predictor.positions import sampled_places
from predictor.prompts import Prompts, prompts_of
from predictor.records import (
    SPLITS,
    Manifest,
    Origin,
    Records,
    RecordsError,
    add_shard,
    open_manifest,
)
from predictor.states import Recomputed, Text, Wanted, check_layers, recompute
from predictor.texts import texts_of
from serving.engine.build import (
    Deployment,
    load_workers,
    make_coordinator,
    settle,
    warm_up,
)
from serving.engine.compile_cache import cache_directory, keep_compiled
from serving.engine.device_memory import claim
from serving.engine.loop import EngineLoop
from serving.engine.observer import Observers
from serving.flags import build_config
from serving.request import SamplingParams
from train.tasks.conversation import draw_script
from train.tasks.families import FAMILIES

AT_ONCE = 64
"""Sessions that are played at the same time."""
SHARDS_AT_ONCE = 3
"""Shards that they are of."""
REPLIES_OF_A_SHARD = 2**16
"""Numbers set aside for the replies of each shard, so that no two share one."""
SMALLEST_CAP = 16
PROMPT_WINDOW = 256
"""Tokens of a prompt that a head may glance at (ours: nine in ten of the demo's are shorter)."""
PLAINLY = {"prefill_workers": 0, "decode_workers": 1, "length_head": "none"}
"""Settings of the engine that plays: one worker, and no head, which is yet to be trained."""


def task_sessions(seed: int) -> Iterator[Asked]:
    """Yield sessions of the demo model's tasks without end, every family equally often."""
    for number, family in enumerate(itertools.cycle(FAMILIES)):
        rng = random.Random(f"session {seed} {number}")
        yield Asked(family, tuple(draw_script(family, rng)))


def read_sessions(path: Path) -> list[Asked]:
    """Read sessions from JSON lines with `family` and `questions`; raises RecordsError."""
    sessions: list[Asked] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                one = json.loads(line)
                questions = one["questions"]
                if not (isinstance(questions, list) and questions):
                    raise TypeError("`questions` is a list of at least one")
                family = str(one.get("family", ""))
                sessions.append(Asked(family, tuple(str(question) for question in questions)))
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise RecordsError(f"{path}:{number}: no session ({error})") from error
    return sessions


def scripts_of(number: int, asked: Asked, family: int, origin: Origin) -> list[Script]:
    """Say how a session is played: at every temperature, `samples` times.

    A share of the replies is capped, at lengths spread evenly over their logarithms: servers see
    limits of all kinds.
    """
    rng = random.Random(f"script {origin.seed} {number}")
    scripts: list[Script] = []
    for temperature in origin.temperatures:
        for _ in range(origin.samples):
            caps = tuple(_cap(origin, rng) for _ in asked.questions)
            seed = rng.randrange(2**31)
            scripts.append(Script(number, family, asked.questions, caps, temperature, seed))
    return scripts


def _cap(origin: Origin, rng: random.Random) -> int:
    if rng.random() >= origin.cap_share:
        return origin.max_tokens
    return round(exp(rng.uniform(log(SMALLEST_CAP), log(origin.max_tokens))))


def recomputed(
    replies: Sequence[Reply], first: int, config: ModelConfig, params: Params, origin: Origin
) -> tuple[Records, Prompts | None]:
    """Take records of replies, numbered from `first` on, and of their prompts if that is wanted."""
    places: list[list[int]] = []
    for number, reply in enumerate(replies, first):
        rng = random.Random(f"places {origin.seed} {number}")
        places.append(sampled_places(len(reply.tokens), origin.stride, rng))
    texts = [
        # What samples token r of a reply is the state at the token before it.
        Text((*r.prompt, *r.tokens), len(r.prompt), [len(r.prompt) - 1 + p for p in own])
        for r, own in zip(replies, places, strict=True)
    ]
    wanted = Wanted(origin.layers, origin.reach, origin.prompt_layer, origin.prompt_window or 0)
    seen = recompute(params, texts, wanted, config=config)
    records = records_of(replies, first, places, seen)
    if origin.prompt_layer is None:
        return records, None
    of = {number: reply.prompt for number, reply in enumerate(replies, first)}
    kept = {reply.prompt: one.kv for reply, one in zip(replies, seen, strict=True)}
    return records, prompts_of(of, kept)


def records_of(
    replies: Sequence[Reply],
    first: int,
    places: Sequence[Sequence[int]],
    seen: Sequence[Recomputed],
) -> Records:
    """Put what was `seen` at `places` of replies, numbered from `first` on, side by side."""
    counts = [len(own) for own in places]

    def each(values: Sequence[int] | Sequence[float] | Sequence[bool], dtype: type) -> np.ndarray:
        return np.repeat(np.array(values, dtype), counts)

    generated = np.array([place for own in places for place in own], np.int32)
    return Records(
        hidden=np.concatenate([one.states for one in seen]),
        generated=generated,
        prompt_len=each([len(r.prompt) for r in replies], np.int32),
        turn=each([r.turn for r in replies], np.int32),
        remaining=each([len(r.tokens) for r in replies], np.int32) - generated,
        limit=each([r.limit for r in replies], np.int32) - generated,
        censored=each([r.censored for r in replies], np.bool_),
        session=each([r.script.number for r in replies], np.int32),
        reply=each(range(first, first + len(replies)), np.int32),
        family=each([r.script.family for r in replies], np.int32),
        temperature=each([r.script.temperature for r in replies], np.float32),
    )


class Collector:
    """Plays sessions on one engine and writes their records, shard by shard."""

    def __init__(
        self,
        deployment: Deployment,
        tokenizer: ChatTokenizer,
        params: Params,
        sampling: SamplingParams,
    ) -> None:
        """`params` are those that the engine serves, `sampling` is what scripts leave open."""
        self._deployment = deployment
        self._sampling = sampling
        self._tokenizer = tokenizer
        self._params = params

    async def run(
        self, sessions: Sequence[Asked], manifest: Manifest, out: Path, per_shard: int
    ) -> Manifest:
        """Collect what no shard holds yet, with a progress bar; returns the manifest."""
        dealt = shards(len(sessions), per_shard)
        left = missing(dealt, sessions, manifest.shards)
        if not left:
            return manifest
        engine = EngineLoop(
            make_coordinator(self._deployment),
            Observers([]),
            time.monotonic,
            flexible_roles=False,
            step_timeout_s=self._deployment.config.schedule.step_timeout_seconds,
        )
        await engine.start(warm_up(load_workers(self._deployment), engine.post, time.monotonic))
        done = len(sessions) - sum(len(numbers) for _, numbers in left)
        room = asyncio.Semaphore(AT_ONCE)
        playing: deque[asyncio.Task[list[Reply]]] = deque()
        try:
            with tqdm(total=len(sessions), initial=done, desc="collecting", unit="session") as bar:
                ahead = iter(left)
                for name, numbers in left:
                    # The longest replies of a shard keep few rows busy: later ones play meanwhile.
                    for _, own in itertools.islice(ahead, SHARDS_AT_ONCE - len(playing)):
                        scripts = self._scripts(own, sessions, manifest)
                        playing.append(asyncio.create_task(self._play(engine, scripts, room)))
                    replies = await playing.popleft()
                    first = dealt.index((name, numbers)) * REPLIES_OF_A_SHARD
                    # The engine goes on: what was played is looked at in a thread beside it.
                    of = len(numbers), asked_of(numbers, sessions)
                    manifest = await asyncio.to_thread(
                        self._keep, replies, first, manifest, out / name, of
                    )
                    bar.update(len(numbers))
        finally:
            for task in playing:
                task.cancel()
            await engine.stop()
        return manifest

    async def _play(
        self, engine: EngineLoop, scripts: Sequence[Script], room: asyncio.Semaphore
    ) -> list[Reply]:
        return await play(
            engine,
            self._tokenizer,
            scripts,
            sampling=self._sampling,
            max_total=self._deployment.max_model_len,
            room=room,
        )

    def _keep(
        self,
        replies: Sequence[Reply],
        first: int,
        manifest: Manifest,
        path: Path,
        of: tuple[int, str],
    ) -> Manifest:
        """Write a shard of replies, numbered from `first` on; returns the manifest with it."""
        records, prompts = recomputed(
            replies, first, self._deployment.model, self._params, manifest.origin
        )
        texts = texts_of(
            range(first, first + len(replies)),
            [reply.prompt for reply in replies],
            [reply.tokens for reply in replies],
        )
        return add_shard(path.parent, manifest, path.name, records, texts, prompts, of)

    def _scripts(
        self, numbers: Sequence[int], sessions: Sequence[Asked], manifest: Manifest
    ) -> list[Script]:
        family_of = {family: index for index, family in enumerate(manifest.families)}
        return [
            script
            for number in numbers
            for script in scripts_of(
                number, sessions[number], family_of[sessions[number].family], manifest.origin
            )
        ]


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--sessions", type=click.IntRange(min=1), required=True, help="How many to play.")
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="JSON lines with `questions` and `family`; without it, the demo model's tasks.",
)
@click.option("--samples", type=click.IntRange(min=1), default=2, show_default=True)
@click.option(
    "--temperature",
    "temperatures",
    type=click.FloatRange(min=0),
    multiple=True,
    default=(0.8,),
    show_default=True,
    help="May be given several times.",
)
@click.option(
    "--layer",
    "layers",
    type=click.IntRange(min=1),
    multiple=True,
    help="A layer whose output is recorded, from 1; may be given several times. Default: the last.",
)
@click.option(
    "--reach",
    type=click.IntRange(min=1),
    help="Record also recent means, of about so many states.",
)
@click.option(
    "--prompt-layer",
    type=click.IntRange(min=1),
    help="Record also this layer's keys and values at the last tokens of prompts, to glance at.",
)
@click.option(
    "--prompt-window",
    type=click.IntRange(min=1),
    default=PROMPT_WINDOW,
    show_default=True,
    help="At how many of them.",
)
@click.option("--stride", type=click.IntRange(min=1), default=20, show_default=True)
@click.option(
    "--max-tokens", type=click.IntRange(min=SMALLEST_CAP), default=2048, show_default=True
)
@click.option("--cap-share", type=click.FloatRange(0, 1), default=0.15, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--shard-sessions", type=click.IntRange(min=1), default=40, show_default=True)
def main(
    checkpoint: Path,
    out: Path,
    sessions: int,
    prompts: Path | None,
    shard_sessions: int,
    **how: Any,
) -> None:
    """Play sessions with CHECKPOINT and write records of the replies to OUT."""
    try:
        run(checkpoint, out, sessions, prompts, shard_sessions, how)
    except (CheckpointError, LostReply, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error


def run(
    checkpoint: Path,
    out: Path,
    count: int,
    prompts: Path | None,
    per_shard: int,
    how: Mapping[str, Any],
) -> None:
    """Do what `main` was asked for; raises what its parts raise."""
    claim(os.environ)
    deployment = settle(build_config(str(checkpoint), PLAINLY))
    keep_compiled(cache_directory(), least_seconds=0.0)
    config = deployment.model
    layers = how["layers"] or (config.num_layers,)
    prompt_layer = how["prompt_layer"]
    check_layers((*layers, *([] if prompt_layer is None else [prompt_layer])), config)
    # As a server samples where a request names its temperature alone.
    defaults = replace(read_sampling_defaults(checkpoint), temperature=1.0)
    origin = Origin(
        checkpoint=checkpoint_fingerprint(checkpoint),
        tokenizer=tokenizer_fingerprint(checkpoint),
        hidden_size=config.hidden_size,
        layers=tuple(layers),
        seed=how["seed"],
        samples=how["samples"],
        temperatures=tuple(how["temperatures"]),
        stride=how["stride"],
        max_tokens=how["max_tokens"],
        cap_share=how["cap_share"],
        reach=how["reach"],
        prompt_layer=prompt_layer,
        prompt_window=None if prompt_layer is None else how["prompt_window"],
        sampling=str(defaults) or None,
    )
    source = task_sessions(how["seed"]) if prompts is None else iter(read_sessions(prompts))
    sessions = list(itertools.islice(source, count))
    if len(sessions) < count:
        raise RecordsError(f"{prompts}: holds {len(sessions)} sessions, {count} are wanted")
    families = tuple(sorted({one.family for one in sessions}))
    manifest = open_manifest(out, origin, families)
    out.mkdir(parents=True, exist_ok=True)  # what cannot be written is told before the work
    params = load_params(checkpoint, config, _here(config), jnp.dtype(config.dtype), None)
    tokenizer = load_tokenizer(checkpoint)
    collector = Collector(deployment, tokenizer, params, left_open(defaults))
    manifest = asyncio.run(collector.run(sessions, manifest, out, per_shard))
    for split in SPLITS:
        own = manifest.shards_of(split).values()
        records, replies = sum(s.records for s in own), sum(s.replies for s in own)
        click.echo(f"{split}: {records} records of {replies} replies")


def _here(config: ModelConfig) -> dict[str, Any]:
    """Place whole parameters on the first device."""
    whole = SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda _: whole, abstract_params(config))


if __name__ == "__main__":
    main()

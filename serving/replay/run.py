"""How is a workload replayed against a server? Find it, play all sessions at once, report."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
from tqdm import tqdm

from serving.replay.conversation import Conversation
from serving.replay.in_chat import ChatConversation
from serving.replay.in_tokens import TokenConversation
from serving.replay.recorder import Recorder
from serving.replay.report import Played, report_of
from serving.replay.server import Server, find_model, open_client
from serving.replay.sessions import Player, places
from serving.replay.settings import CHAT, ReplayConfig
from serving.replay.text import Author
from serving.workload.session import Workload


def replay(
    config: ReplayConfig,
    workload: Workload,
    *,
    transport: httpx.AsyncBaseTransport | None,
    show_progress: bool,
) -> dict[str, Any]:
    """Replay a workload and report; transport None is the network.

    An interrupt ends it early, and the report is of what was sent until then. Raises ReplayError
    if the server cannot be reached or cannot serve such prompts.
    """
    with tqdm(
        total=workload.num_turns, desc="replaying", unit="turn", disable=not show_progress
    ) as bar:
        played = asyncio.run(_replay(config, workload, transport, bar.update))
    return report_of(config, workload, played)


async def _replay(
    config: ReplayConfig,
    workload: Workload,
    transport: httpx.AsyncBaseTransport | None,
    on_turns: Callable[[int], object],
) -> Played:
    async with open_client(config, transport) as http:
        model = await find_model(http, config)
        recorder = Recorder()
        player = Player(
            Server(http, model),
            recorder,
            time.perf_counter,
            places(config.concurrency_limit),
            on_turns,
        )
        begin = time.perf_counter()
        interrupted = await _play_all(player, config, workload, begin)
        return Played(model, recorder, interrupted, time.perf_counter() - begin)


async def _play_all(player: Player, config: ReplayConfig, workload: Workload, begin: float) -> bool:
    """Play every session; True if an interrupt came first."""
    sessions = [
        asyncio.create_task(player.play(shape, new_conversation(config), begin + shape.start_s))
        for shape in workload.sessions
    ]
    try:
        await asyncio.gather(*sessions)
    except asyncio.CancelledError:
        # asyncio.run cancels for Ctrl-C; what was measured is still wanted.
        return True
    finally:
        for session in sessions:
            session.cancel()
        await asyncio.gather(*sessions, return_exceptions=True)
    return False


def new_conversation(config: ReplayConfig) -> Conversation:
    """Begin a session in the way that is asked for."""
    author = Author(config.seed, config.vocab)
    return ChatConversation(author) if config.prompts == CHAT else TokenConversation(author)

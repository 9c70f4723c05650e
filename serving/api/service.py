"""What do the endpoints share, and how does a parsed request become an exchange?

Knows nothing of the formats of answers, nor of sockets.
"""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from starlette.datastructures import Headers

from model.sampling_defaults import SamplingDefaults
from serving.api.answer import Manner
from serving.api.calls.formats import CallFormat, format_in_force
from serving.api.calls.reader import CallReader
from serving.api.choice import Choice
from serving.api.detokenize import TokenText
from serving.api.engine import Engine
from serving.api.errors import ApiError, unavailable
from serving.api.exchange import Exchange, Strand
from serving.api.fields import IGNORED_HEADER
from serving.api.forcing import Spelling, constrained
from serving.api.identity import Identity, identity
from serving.api.load import load_headers
from serving.api.logprobs import LogprobWriter
from serving.api.params import Limits, choice_seed, wanted
from serving.api.replies import ReplyStore, Tenant
from serving.api.responses.stored import Bounds, StoredResponses
from serving.api.running import Running
from serving.api.schemas import ChatBody, GenerationBody, replies_before
from serving.api.structured import Compiler
from serving.api.text import Prompts, away
from serving.api.tokenizer import Tokenizer
from serving.api.wire import StreamUsage
from serving.config import EndpointConfig
from serving.messages import EngineState
from serving.metrics import Metrics
from serving.request import Grammar, Turn, TurnId

REMEMBERED_BYTES = 32_000_000
"""Memory for replies kept for splicing: some 14,000 of 200 tokens, a day of a small server."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model as clients see it: its names, its limit, when it was loaded (seconds).

    With `random_weights` nothing that it says means anything, and clients are told so. `defaults`:
    how it is sampled where a request does not say.
    """

    names: tuple[str, ...]
    max_model_len: int
    created: int
    seed: int
    random_weights: bool
    defaults: SamplingDefaults


@dataclass(frozen=True, slots=True)
class Shown:
    """What an answer shows beside its text.

    `logprobs` and `prompt_logprobs` are numbers of alternatives; None shows no log-probabilities.
    """

    writer: LogprobWriter
    logprobs: int | None
    prompt_logprobs: int | None
    token_ids: bool
    predictions: bool

    @property
    def details(self) -> bool:
        """Whether chunks carry something for tokens that have no text yet."""
        return self.logprobs is not None or self.token_ids


class Service:
    """The server's parts that requests need; made once by `build_app`."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        config: EndpointConfig,
        model: ServedModel,
        metrics: Metrics,
        grammars: Compiler | None,
    ) -> None:
        """`grammars` None: no reply can follow one, because the model has no tokenizer."""
        self.engine = engine
        self.tokenizer = tokenizer
        self.config = config
        self.model = model
        self.metrics = metrics
        self.grammars = grammars
        self.replies = ReplyStore(REMEMBERED_BYTES)
        self.prompts = Prompts(tokenizer, self.replies)
        self.text = TokenText(tokenizer)
        self.call_format = format_in_force(config.tool_call_parser, tokenizer.template)
        self.spelling = _spelling(self.call_format, tokenizer)
        markers = self.call_format.markers if self.call_format else ()
        self._text_with_calls = self.text.showing(markers)
        self.limits = Limits(
            max_model_len=model.max_model_len,
            vocab_size=tokenizer.vocab_size,
            eos_ids=tokenizer.eos_ids,
            max_logprobs=config.max_logprobs,
            defaults=model.defaults,
        )
        self.running = Running()
        self.stored = StoredResponses(
            Bounds(
                max_responses=config.max_stored_responses,
                max_bytes=config.max_stored_bytes,
                ttl_s=config.stored_response_seconds,
            )
        )
        self._seeds = Random(model.seed)

    def now(self) -> int:
        """Return the time of day in whole seconds."""
        return int(time.time())

    def seconds(self) -> float:
        """Return the time that only goes forward, in seconds."""
        return time.monotonic()

    def check_model(self, name: str) -> None:
        """Raise the 404 for a model that is not served, and the 503 when none is."""
        self.check_name(name)
        match self.engine.state:
            case EngineState.DEAD:
                raise unavailable("The engine is dead.", "engine_dead")
            case EngineState.DRAINING:
                raise unavailable("The server is shutting down.", "draining")
            case EngineState.STARTING:
                raise unavailable("The server is starting.", "starting")
            case EngineState.READY:
                return

    def check_name(self, name: str) -> None:
        """Raise the 404 for a model that is not served; it says which are."""
        if name not in self.model.names:
            served = ", ".join(f"`{known}`" for known in self.model.names)
            raise ApiError(
                404,
                f"The model `{name}` does not exist. Served here: {served}.",
                param="model",
                code="model_not_found",
            )

    def identity(self, headers: Headers, body: GenerationBody) -> Identity:
        """Return who asks."""
        return identity(headers, body)

    def reads_calls(self, body: ChatBody) -> bool:
        """Whether calls of tools are told from the text of this chat's replies."""
        return self.call_format is not None and bool(body.tools) and body.tool_choice != "none"

    async def chat(
        self, kind: str, body: ChatBody, who: Identity, body_bytes: int
    ) -> tuple[Exchange, frozenset[str]]:
        """Return the turns of a chat, and the fields that make no difference to them.

        Raises ApiError for what can be refused beforehand; long bodies are read in a thread.
        """
        ids, unused = await away(body_bytes, lambda: self.prompts.chat(body, who.tenant))
        if body.parallel_tool_calls is not None and not self.reads_calls(body):
            unused |= {"parallel_tool_calls"}
        grammar = await constrained(body, self.grammars, self.spelling)
        return self.exchange(kind, body, who, [ids], grammar), unused

    def exchange(
        self,
        kind: str,
        body: GenerationBody,
        who: Identity,
        prompts: Sequence[tuple[int, ...]],
        grammar: Grammar | None,
    ) -> Exchange:
        """Return the turns of a request; choices are numbered prompt by prompt.

        `kind`, such as `chatcmpl-`, begins the ids that clients see.
        """
        unique = uuid.uuid4().hex
        n = body.n or 1
        self.metrics.on_request(n)
        strands: list[Strand] = []
        for whole in prompts:
            prompt = whole[-(body.truncate_prompt_tokens or 0) :]
            want = wanted(body, len(prompt), self.limits, self._fresh_seed, grammar)
            leader: Strand | None = None
            for i in range(n):
                index = len(strands)
                sampling = replace(want.sampling, seed=choice_seed(want.sampling.seed, i))
                turn = Turn(
                    id=TurnId(f"{kind}{unique}-{index}"),
                    session=who.session,
                    tokens=prompt,
                    sampling=sampling,
                    slo=who.slo,
                    priority=who.priority,
                    salt=who.tenant,
                    number=replies_before(body),
                    follows=leader.turn.id if leader and leader.turn else None,
                )
                calls = self._call_reader(body)
                text = self.text if calls is None else self._text_with_calls
                choice = Choice(index, want.rules, text, calls)
                strand = Strand(choice, prompt, turn if want.computes else None, leader)
                leader = leader or strand
                strands.append(strand)
        return Exchange(self.engine, f"{kind}{body.request_id or unique}", strands)

    def shown(self, body: GenerationBody, *, logprobs: int | None) -> Shown:
        """Return what the answer shows beside its text; `logprobs` as the endpoint spells it."""
        return Shown(
            writer=LogprobWriter(self.text, as_ids=bool(body.return_tokens_as_token_ids)),
            logprobs=logprobs,
            prompt_logprobs=body.prompt_logprobs,
            token_ids=bool(body.return_token_ids),
            predictions=bool(body.foretoken_predictions),
        )

    def stream_usage(self, body: GenerationBody) -> StreamUsage:
        """Return where a stream reports usage."""
        options = body.stream_options
        forced = self.config.enable_force_include_usage
        return StreamUsage(
            at_end=forced or bool(options and options.include_usage),
            running=bool(options and options.continuous_usage_stats),
        )

    def manner(
        self, body: GenerationBody, who: Identity, shown: Shown, ignored: str | None
    ) -> Manner:
        """Return how the answer travels; replies of chats are remembered for their next turn.

        `ignored` is the header's value that names fields without effect.
        """
        is_chat = isinstance(body, ChatBody)
        headers = load_headers(who.headers, self.engine.reports())

        def on_whole(strand: Strand, text: str) -> None:
            if is_chat and strand.turn is not None:
                self._remember(strand, text, who.tenant)

        if ignored:
            headers[IGNORED_HEADER] = ignored
        return Manner(
            stream=bool(body.stream),
            interval=self.config.stream_interval,
            headers=headers,
            keep_samples=shown.logprobs is not None,
            on_whole=on_whole,
            running=self.running,
        )

    def _remember(self, strand: Strand, text: str, tenant: Tenant) -> None:
        """Only replies whose ids give exactly the text: one cut by a stop string does not.

        One with calls is found by the id of its first call: its text never reached the client.
        """
        choice = strand.choice
        call = choice.calls.id_of(0) if choice.calls is not None else None
        ids = choice.tokens
        if ids and ids[-1] in choice.rules.stop_ids:
            ids = ids[:-1]
        if choice.text.text(ids, skip_special=choice.rules.skip_special) == text:
            self.replies.add(tenant, strand.prompt, call or text, ids)

    def _call_reader(self, body: GenerationBody) -> CallReader | None:
        if self.call_format is None or not isinstance(body, ChatBody) or not self.reads_calls(body):
            return None
        return CallReader(self.call_format, parallel=body.parallel_tool_calls is not False)

    def _fresh_seed(self) -> int:
        return self._seeds.getrandbits(64) - 2**63


def _spelling(format: CallFormat | None, tokenizer: Tokenizer) -> Spelling | None:
    if format is None:
        return None
    by_bytes = {tokenizer.token_bytes(token): token for token in tokenizer.special_ids}
    markers = {marker: by_bytes.get(marker.encode()) for marker in format.markers}
    special_ids = {marker: token for marker, token in markers.items() if token is not None}
    return Spelling(format, tokenizer.template, special_ids)

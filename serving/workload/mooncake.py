"""Mooncake's public traces: requests with times, lengths and the hashes of 512-token blocks.

The file knows no conversations. They are rebuilt here as its description proposes (ours, not
upstream's): a request goes on from the latest earlier one that holds the last block the two share,
if all whole blocks of that one's prompt are shared and the prompt grew, and nothing has gone on
from it yet. What the earlier prompt and reply do not account for is new text. Of the gap between
two requests the reply is taken to fill `REPLY_S` a token (ours), and the user the rest. Times come
in steps of 3 s: the requests of a step are spread over it evenly, in their order.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.workload.lines import (
    InOrder,
    Line,
    Skipped,
    count,
    json_object,
    listed,
    number,
    only,
    read_lines,
)
from serving.workload.session import (
    BadLine,
    SessionShape,
    Span,
    TurnShape,
    Workload,
    check_turn,
)

BLOCK = 512
TIME_STEP_S = 3.0
REPLY_S = 0.03
KEYS = frozenset({"timestamp", "input_length", "output_length", "hash_ids"})


@dataclass(slots=True)
class _Request:
    at_s: float
    prompt: int
    reply: int
    spans: tuple[Span, ...]  # the prompt: a block each, by name


def read_mooncake(path: Path, skipped: Skipped) -> Workload:
    """Read a trace; raises WorkloadError."""
    order = InOrder()

    def read(line: Line) -> _Request:
        request = _request(line)
        order.check(line, request.at_s)
        return request

    found = [skipped.attempt(read, line) for line in read_lines(path)]
    requests = [request for request in found if request is not None]
    _spread(requests)
    sessions = [_session(i, chain) for i, chain in enumerate(_conversations(requests))]
    return Workload(f"{path.name} (sessions rebuilt)", tuple(sessions), skipped.counts)


def _request(line: Line) -> _Request:
    record = json_object(line)
    only(line, record, KEYS)
    prompt, reply = count(line, record, "input_length"), count(line, record, "output_length")
    check_turn(TurnShape(0.0, None, (), prompt, reply), line.where, first=True)
    ids = listed(line, record, "hash_ids")
    if len(ids) != -(-prompt // BLOCK) or not all(type(one) is int for one in ids):
        raise BadLine(line.where, f"hash_ids are not a whole number for every {BLOCK} tokens")
    lengths = [BLOCK] * len(ids)
    lengths[-1] -= -prompt % BLOCK
    # Names begin with 1, hashes with 0.
    spans = tuple(Span(1 + one, length) for one, length in zip(ids, lengths, strict=True))
    check_turn(TurnShape(0.0, None, spans, 0, reply), line.where, first=True)
    return _Request(number(line, record, "timestamp") / 1e3, prompt, reply, spans)


def _spread(requests: Sequence[_Request]) -> None:
    """Spread requests of equal time over the step to the next one, evenly and in order."""
    alike: defaultdict[float, list[_Request]] = defaultdict(list)
    for request in requests:
        alike[request.at_s].append(request)
    times = [*alike, float("inf")]
    for (at_s, same), later_s in zip(alike.items(), times[1:], strict=True):
        for i, request in enumerate(same):
            request.at_s += min(TIME_STEP_S, later_s - at_s) * i / len(same)


def _conversations(requests: Sequence[_Request]) -> list[list[_Request]]:
    """Chain requests to conversations, by the time of their first."""
    chains: dict[int, list[_Request]] = {}  # by its last request's id(), which others may continue
    last_with: dict[int, _Request] = {}  # block -> the latest request that has it
    for request in requests:
        parent = _parent(request, last_with)
        chain = [] if parent is None else chains.pop(id(parent), [])
        chain.append(request)
        chains[id(request)] = chain
        last_with.update((span.name, request) for span in request.spans)
    return sorted(chains.values(), key=lambda chain: chain[0].at_s)


def _parent(request: _Request, last_with: Mapping[int, _Request]) -> _Request | None:
    known = [span.name for span in request.spans if span.name in last_with]
    if not known:
        return None
    found = last_with[known[-1]]
    whole = found.prompt // BLOCK
    grew = request.prompt > found.prompt
    # Block 0 is in every request of the trace: alone it says nothing.
    return found if grew and whole > 1 and found.spans[:whole] == request.spans[:whole] else None


def _session(index: int, chain: list[_Request]) -> SessionShape:
    turns: list[TurnShape] = []
    for i, request in enumerate(chain):
        if i == 0:
            turns.append(TurnShape(0.0, None, request.spans, 0, request.reply))
            continue
        before = chain[i - 1]
        context = before.prompt + before.reply
        # A prompt shorter than what came before has lost part of it: what is surely kept are the
        # whole blocks of the earlier prompt.
        keep = context if request.prompt > context else before.prompt // BLOCK * BLOCK
        think_s = max(0.0, request.at_s - before.at_s - REPLY_S * before.reply)
        turns.append(TurnShape(think_s, keep, (), request.prompt - keep, request.reply))
    return SessionShape(f"mooncake-{index}", chain[0].at_s, tuple(turns))

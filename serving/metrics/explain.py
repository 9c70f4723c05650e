"""What happened, for people? One turn of a decision log, or all of them, on one screen of text.

Knows nothing of files.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean, median

from serving.config import ConfigError
from serving.messages import STOPPED
from serving.metrics.decision_log import SIMULATED
from serving.metrics.stories import Attempt, History, Move, Record, Room, Story

SLOWEST = 3
"""Turns named at the end of a summary, to look at next."""


def explain(runs: Sequence[History], number: int | None, turn: str | None) -> str:
    """Tell one of the runs of a log, or a turn; raises ConfigError if it is not there.

    Runs count from 1; None: the last one, and for a turn the last one that has it.
    """
    if number is not None and not 1 <= number <= len(runs):
        raise ConfigError(f"--run {number}: {_how_many(len(runs))}")
    if turn is None:
        at = len(runs) if number is None else number
        return "\n".join([*_which(runs, at), explain_all(runs[at - 1])])
    numbers = range(len(runs), 0, -1) if number is None else [number]
    for at in numbers:
        story = find_turn(runs[at - 1], turn)
        if story is not None:
            return "\n".join([*_which(runs, at), explain_turn(story)])
    where = "this log" if number is None else f"run {number} of this log"
    raise ConfigError(f"no turn of {where} begins with {turn!r}")


def _how_many(runs: int) -> str:
    return "this log has one run" if runs == 1 else f"this log has {runs} runs; use 1 to {runs}"


def _which(runs: Sequence[History], number: int) -> list[str]:
    """Say which run is told, where there are several."""
    if len(runs) == 1:
        return []
    if number == len(runs):
        return [f"last of {len(runs)} runs (--run 1 to {len(runs)} tells another)"]
    return [f"run {number} of {len(runs)}"]


def find_turn(history: History, name: str) -> Story | None:
    """Find a turn by its id or the beginning of it; raises ConfigError if there are several."""
    found = [story for turn, story in history.stories.items() if turn.startswith(name)]
    exact = history.stories.get(name)
    if exact is not None or len(found) <= 1:
        return exact or next(iter(found), None)
    some = ", ".join(story.turn for story in found[:3])
    raise ConfigError(f"{len(found)} turns begin with {name!r}: {some} ...")


def explain_turn(story: Story) -> str:
    """Tell one turn, event by event; times count from its arrival."""
    out = [f"turn {story.turn}"]
    if story.session is not None:
        out.append(f"session {story.session}, its turn {story.number}")
    events: list[tuple[float, list[str]]] = [(story.arrived, [_arrival(story)])]
    events += [(attempt.t, _attempt(attempt)) for attempt in story.attempts]
    events += [(room.t, [_room(room)]) for room in story.rooms]
    if story.first is not None:
        events.append((story.first.t, [_first(story)]))
    for move in story.moves:
        events += _moving(move)
    if story.end is not None:
        events.append((story.end.t, [_end(story)]))
    for t, lines in sorted(events, key=lambda event: event[0]):
        out.append(f"{t - story.arrived:9.3f} s  {lines[0]}")
        out += [f"{'':13}{line}" for line in lines[1:]]
    return "\n".join(out)


def explain_all(history: History) -> str:
    """Tell a whole run: where turns were prefilled and why, what was predicted, what came."""
    stories = list(history.stories.values())
    policies: Record = history.opening["policies"]
    began = min((story.arrived for story in stories), default=history.until)
    started = history.opening["time"]
    out = [
        f"{len(stories)} turns in {history.until - began:.1f} s; "
        + ("simulated" if started == SIMULATED else f"the server started at {started}"),
        f"route {policies['route_policy']}, rebalance {policies['rebalance_policy']}, "
        f"roles {policies['roles_policy']}; "
        + ", ".join(f"{name} {role}" for name, role in history.opening["workers"].items()),
        f"ended: {_counts(_ending(story) for story in stories)}",
        "",
        *_paths(stories),
        "",
        *_predictions(stories),
        *_moves([move for story in stories for move in story.moves]),
    ]
    again = [a.again for story in stories for a in story.attempts if a.again is not None]
    if again:
        out.append(f"begun anew: {_counts(again)}")
    rooms = [room for story in stories for room in story.rooms]
    for kind, what in (
        ("defer", "had to wait for room"),
        ("order", "overtook older ones"),
        ("pause", "waited for a page and kept theirs"),
        ("aside", "stood aside for others"),
    ):
        if reasons := [room.reason for room in rooms if room.kind == kind]:
            out.append(f"{what}: {_counts(reasons)}")
    if history.evicted:
        pages = ", ".join(f"{count} {what}" for what, count in history.evicted.items())
        out.append(f"pages evicted: {pages}")
    if history.workers:
        out.append(f"workers: {_counts(str(one['kind']) for one in history.workers)}")
        out += [_loss(one) for one in history.workers if one["kind"] == "worker_lost"]
    slow = [story for story in stories if story.first is not None]
    slow.sort(key=lambda story: -story.first.ttft_s if story.first else 0.0)
    if slow:
        out.append("slowest first tokens (see --turn):")
        out += [
            f"  {story.turn}  {_s(story.first and story.first.ttft_s)}" for story in slow[:SLOWEST]
        ]
    return "\n".join(out)


# ---- one turn ------------------------------------------------------------------------------------


def _arrival(story: Story) -> str:
    targets = [
        f"{name} target {_s(target)}"
        for name, target in (("TTFT", story.ttft_target_s), ("TPOT", story.tpot_target_s))
        if target is not None
    ]
    size = f"arrives: {story.prompt_len} prompt tokens, a reply of at most {story.max_tokens}"
    return ", ".join([size, *targets])


def _attempt(attempt: Attempt) -> list[str]:
    new_len = attempt.prompt_len - attempt.cached_len
    begin = "" if attempt.again is None else f"begins anew ({attempt.again}): "
    where = "itself prefills" if attempt.local else f"{attempt.prefill} prefills for it"
    clear = f"; kept clear of rows: {', '.join(attempt.clear)}" if attempt.clear else ""
    place = f"{attempt.owner} ({attempt.place_reason}{clear})"
    out = [
        f"{begin}owner {place}; {where} ({attempt.route_reason})",
        f"{new_len} tokens to compute, {attempt.cached_len} cached"
        + ("" if attempt.history is None else f"; history: {attempt.history}"),
    ]
    if attempt.options:
        out.append(
            f"  {'option':26} {'TTFT':>9} {'harm':>7} {'missed':>6} {'sent':>9} {'score':>8}"
        )
    for i, option in enumerate(attempt.options):
        name = option["choice"] + (f" {option['history']}" if option["history"] else "")
        out.append(
            f"{'>' if i == 0 else ' '} {name:26} {_s(option['ttft_s']):>9} "
            f"{_number(option['harm']):>7} {option['missed']:>6} "
            f"{_bytes(option['moved_bytes']):>9} {_number(option['score']):>8}"
        )
    return out


def _room(room: Room) -> str:
    details = room.details
    match room.kind:
        case "admit":
            text = f"has room ({room.reason}): {details['pages']} pages, {details['reserved']} more"
            text += " set aside for growth"
        case "defer":
            text = f"waits for room ({room.reason}), {details['waiting']} in the queue"
        case "order":
            text = f"overtakes {details['passed_over']} older ({room.reason})"
        case "pause" if room.reason == "first_to_end":
            text = f"waits for a page ({room.reason}): {details['kept']} left are kept for another"
        case "pause" if room.reason == "first_token":
            text = f"waits for a page ({room.reason}): who gives way first tells its token"
        case "pause":
            text = f"waits for a page ({room.reason}): {_number(details['lost_steps'])} steps are"
            text += f" likely lost, {_number(details['saved_steps'])} saved"
        case "aside":
            text = f"stands aside for {details['for']} ({room.reason}): {details['pages']} pages,"
            text += f" {_number(details['left'])} tokens to come, {_s(details['spare_s'])} to spare"
        case _:
            text = f"{details['tokens']} tokens lie in host memory ({room.reason}: "
            text += f"{_s(details['fetch_s'])} to fetch, {_s(details['compute_s'])} to compute)"
    return f"at {room.worker}: {text}"


def _first(story: Story) -> str:
    first = story.first
    assert first is not None
    text = f"first token after {_s(first.ttft_s)}"
    if first.predicted_s is not None:
        text += f" (predicted {_s(first.predicted_s)})"
    waited = max(0.0, first.ttft_s - first.prefill_s)
    return f"{text}: {_s(waited)} in queues, {_s(first.prefill_s)} for {first.computed} tokens"


def _moving(move: Move) -> list[tuple[float, list[str]]]:
    gain = f", predicted gain {_s(move.gain_s)} a step" if move.gain_s else ""
    begin = f"its row is to move from {move.source} to {move.to} ({move.reason}{gain})"
    out = [(move.t, [begin])]
    if move.outcome == "failed" and move.done_t is not None:
        out.append((move.done_t, [f"it stays ({move.why_not})"]))
    elif move.resumed_t is not None:
        text = f"goes on at {move.to}: its client waited {_s(move.stop_s)} between two tokens"
        per_token = f"time per token {_s(move.itl_before_s)} before, {_s(move.itl_after_s)} after"
        out.append((move.resumed_t, [text, per_token]))
    return out


def _end(story: Story) -> str:
    end = story.end
    assert end is not None
    text = f"{_ending(story)} after {end.reply_len} tokens"
    if story.tpot_s is not None:
        text += f", {_s(story.tpot_s)} a token"
    return f"{text}; {end.cached_len} of {story.prompt_len} prompt tokens were cached"


# ---- all of them ---------------------------------------------------------------------------------


def _loss(one: Record) -> str:
    details: Record = one["details"]
    after = "" if details["overdue_s"] is None else f", its step out for {_s(details['overdue_s'])}"
    return f"  {details['worker']} was lost at {one['t']:.3f} s ({one['reason']}{after})"


def _ending(story: Story) -> str:
    """Say how a turn ended. What a stop string ends is a whole reply, though its row is dropped."""
    if story.end is None:
        return "still running"
    if (story.end.outcome, story.end.reason) == ("dropped", STOPPED):
        return "completed (stop string)"
    return f"{story.end.outcome} ({story.end.reason})"


def _paths(stories: Sequence[Story]) -> list[str]:
    """One line for each way and reason, the most frequent first."""
    groups: dict[tuple[str, str], list[Story]] = {}
    for story in stories:
        if story.first is not None and story.attempts:
            attempt = story.attempts[0]
            key = ("its owner" if attempt.local else attempt.prefill, attempt.route_reason)
            groups.setdefault(key, []).append(story)
    out = [
        f"{'prefilled by':12} {'because':20} {'turns':>6} {'computed':>9} {'cached':>9} "
        f"{'TTFT mean':>10} {'predicted':>10}"
    ]
    for (where, reason), group in sorted(groups.items(), key=lambda item: -len(item[1])):
        firsts = [story.first for story in group if story.first is not None]
        predicted = [first.predicted_s for first in firsts if first.predicted_s is not None]
        computed = sum(first.computed for first in firsts)
        cached = sum(story.prompt_len for story in group) - computed
        out.append(
            f"{where:12} {reason:20} {len(group):6} {computed:9} {cached:9} "
            f"{_s(fmean(first.ttft_s for first in firsts)):>10} "
            f"{_s(fmean(predicted) if predicted else None):>10}"
        )
    return out


def _predictions(stories: Sequence[Story]) -> list[str]:
    firsts = [story.first for story in stories if story.first is not None]
    pairs = [(f.predicted_s, f.ttft_s) for f in firsts if f.predicted_s is not None]
    if not pairs:
        return []
    off = median(abs(predicted - came) for predicted, came in pairs)
    ratio = sum(predicted for predicted, _ in pairs) / sum(came for _, came in pairs)
    return [
        f"TTFT: predictions are off by {_s(off)} (median); their sum is {ratio:.2f} of what came"
    ]


def _moves(moves: Sequence[Move]) -> list[str]:
    if not moves:
        return []
    out = [f"moves: {_counts(_fate(move) for move in moves)}"]
    stops = [move.stop_s for move in moves if move.stop_s is not None]
    if stops:
        out.append(f"  clients waited {_s(median(stops))} (median), at most {_s(max(stops))}")
    pairs = [
        (move.itl_before_s, move.itl_after_s)
        for move in moves
        if move.itl_before_s is not None and move.itl_after_s is not None
    ]
    if pairs:
        before, after = (fmean(times) for times in zip(*pairs, strict=True))
        out.append(f"  mean time per token {_s(before)} before, {_s(after)} after")
    return out


def _fate(move: Move) -> str:
    match move.outcome:
        case "moved":
            return f"done ({move.reason})"
        case "failed":
            return f"given up ({move.why_not})"
        case _:
            return "not finished"


# ---- numbers -------------------------------------------------------------------------------------


def _counts(names: Iterable[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in Counter(names).most_common())


def _s(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e3:.1f} ms" if abs(seconds) < 1 else f"{seconds:.2f} s"


def _bytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

"""Which turns does a reasoning model get and give, as far as STAR's paper says?

The paper's workload is not published. Known is (papers.md 4.1): prompts of ShareGPT, replies of
DeepSeek-R1-Distill-Qwen-7B, 29.2 % of them below 1K tokens and 17.3 % above 30K, with a cap of 32K
that most of the latter probably end at. Ours is the rest: all of those end at the cap, lengths are
log-uniform below 1K (from 64) and from there to 30K, prompts are log-normal with a median of 80 and
a mean of 220 tokens and 2,048 at most, each turn is a session of its own, and they arrive as a
Poisson process, one a second (`--rate-scale` makes that what is asked for).
"""

from math import exp, log, sqrt
from random import Random

from serving.workload.session import SessionShape, TurnShape, Workload

CAP = 32768
"""Of prompt and reply together."""
SHORT, LONG = 1024, 30 * 1024
SHARE_SHORT, SHARE_CAPPED = 0.292, 0.173
SHORTEST = 64
PROMPT_MEDIAN, PROMPT_MEAN, LONGEST_PROMPT = 80.0, 220.0, CAP - LONG


def reasoning(turns: int, seed: int) -> Workload:
    """Draw so many turns."""
    draw, start_s = Random(f"reasoning {seed}"), 0.0
    sessions: list[SessionShape] = []
    for number in range(turns):
        prompt = _prompt(draw)
        turn = TurnShape(0.0, keep=None, shared=(), new=prompt, reply=_reply(draw, prompt))
        sessions.append(SessionShape(f"r{number}", start_s, (turn,)))
        start_s += draw.expovariate(1.0)
    return Workload(f"reasoning, seed {seed}", tuple(sessions), {})


def _prompt(draw: Random) -> int:
    spread = sqrt(2 * log(PROMPT_MEAN / PROMPT_MEDIAN))
    return min(max(round(draw.lognormvariate(log(PROMPT_MEDIAN), spread)), 1), LONGEST_PROMPT)


def _reply(draw: Random, prompt: int) -> int:
    group = draw.random()
    if group < SHARE_SHORT:
        return _log_uniform(draw, SHORTEST, SHORT)
    if group < 1 - SHARE_CAPPED:
        return _log_uniform(draw, SHORT, LONG)
    return CAP - prompt


def _log_uniform(draw: Random, least: int, most: int) -> int:
    return round(exp(draw.uniform(log(least), log(most))))

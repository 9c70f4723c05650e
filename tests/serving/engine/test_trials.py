"""Grammars that break their compiler break a process that is there for it, and nothing else."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from serving.engine.trials import Trials
from serving.request import Grammar, GrammarError, GrammarKind
from tests.support.fake_tokenizer import FakeTokenizer
from tests.support.grammars import grammars_over
from tests.support.hostile import CHAINED, ENDLESS, chained

DIGITS = Grammar(GrammarKind.REGEX, "[0-9]{3}")


@pytest.fixture
def trials() -> Iterator[Trials]:
    made = Trials(grammars_over(FakeTokenizer()))
    yield made
    made.close()


def tried(trials: Trials, *grammars: Grammar) -> list[str | None]:
    """What is said of each; None: it compiles."""

    async def one(grammar: Grammar) -> str | None:
        try:
            await trials.check(grammar)
        except GrammarError as error:
            return str(error)
        return None

    async def all_of_them() -> list[str | None]:
        return await asyncio.gather(*map(one, grammars))

    return asyncio.run(all_of_them())


def of_schema(schema: object) -> Grammar:
    return Grammar(GrammarKind.JSON, json.dumps(schema))


def test_what_compiles_is_kept_and_not_tried_again(trials: Trials):
    assert not trials._grammars.keeps(DIGITS)
    assert tried(trials, DIGITS, DIGITS) == [None, None]
    assert trials._grammars.keeps(DIGITS)
    trials.close()
    assert tried(trials, DIGITS) == [None]


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        (of_schema({"type": "foo"}), "Invalid type: foo"),
        (Grammar(GrammarKind.REGEX, "("), "unclosed group"),
        (of_schema({"$ref": "#"}), "it allows no text at all"),
        (Grammar(GrammarKind.LARK, "start: A\nA: /a/ & /b/"), "it allows no text at all"),
        (of_schema(chained(400)), None),
        (Grammar(GrammarKind.LARK, 'start: ("a" "b"?){1,9} "é"{1,50000}'), None),
    ],
    ids=str,
)
def test_it_is_said_why_one_cannot_be_followed(trials: Trials, grammar: Grammar, why: str | None):
    assert tried(trials, grammar) == [why]
    assert trials._grammars.keeps(grammar) == (why is None)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (CHAINED, "it is nested too deep; make it simpler"),
        (chained(1200), "it is nested too deep; make it simpler"),  # there is a margin
        (ENDLESS, "it takes more than 2 s to compile; make it simpler"),
    ],
    ids=["chained", "nearly", "endless"],
)
def test_one_that_breaks_the_process_is_refused_and_those_behind_it_are_not(
    trials: Trials, schema: object, why: str
):
    assert tried(trials, of_schema(schema), DIGITS) == [why, None]


def test_a_process_that_was_ended_is_replaced(trials: Trials):
    process = trials._pool.submit(trials._running).result()
    process.kill()
    process.communicate()
    assert tried(trials, DIGITS) == [None]


def test_one_whose_client_has_left_is_no_hindrance(trials: Trials):
    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(trials.check(of_schema({"type": "null"})), 0)
        await trials.check(DIGITS)

    asyncio.run(leave())
    assert trials._grammars.keeps(DIGITS)


def test_that_it_does_not_start_is_no_fault_of_a_grammar(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    made = Trials(grammars_over(FakeTokenizer()))
    with pytest.raises(RuntimeError, match="does not start"):
        tried(made, DIGITS)
    made.close()


def test_the_process_needs_no_jax_and_so_is_soon_replaced():
    code = "import sys, serving.engine.trials as t; sys.exit('jax' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0


def test_closing_ends_the_process(trials: Trials):
    process = trials._pool.submit(trials._running).result()
    trials.close()
    assert process.poll() == 0

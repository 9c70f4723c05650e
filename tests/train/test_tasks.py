import json
import math
import random
import re
import subprocess
import sys

import pytest

from train.tasks.addition import Addition
from train.tasks.conversation import FOLLOW_UP_FAMILY, draw_topic, examples, follow_up
from train.tasks.families import FAMILIES
from train.tasks.lists import Filtering, Largest, Reversing, Sorting
from train.tasks.multiplication import Multiplication
from train.tasks.number_chains import Collatz, Euclid, Factoring
from train.tasks.problem import ANSWER_MARK, FollowUp, Problem, extract_answer
from train.tasks.progressions import Counting, Table


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reply_always_ends_with_its_answer(family: str):
    rng = random.Random(3)
    for _ in range(200):
        problem = FAMILIES[family](rng)
        assert problem.family == family
        assert extract_answer(problem.reply(rng)) == problem.answer


def test_equal_seeds_draw_equal_prompts_and_other_seeds_others():
    assert list(examples(5, 1)) == list(examples(5, 1))
    assert list(examples(5, 1)) != list(examples(5, 2))


def test_examples_cover_every_family_and_follow_ups():
    drawn = list(examples(4, 9))
    assert [e.family for e in drawn[::4]] == [*FAMILIES, FOLLOW_UP_FAMILY]
    assert all(e.messages[-1][0] == "user" for e in drawn)
    follow_ups = [e for e in drawn if e.family == FOLLOW_UP_FAMILY]
    assert all([role for role, _ in e.messages[:2]] == ["user", "assistant"] for e in follow_ups)
    assert all(len(e.messages) in (3, 5) for e in follow_ups)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split()]


def test_sums_and_products_are_right_in_every_line():
    rng = random.Random(5)
    for family in ("addition", "multiplication"):
        for _ in range(100):
            reply = FAMILIES[family](rng).reply(rng)
            for line in reply.splitlines():
                if " so " in line:
                    left, right = line.split(" so ")[0].split("=")
                    assert eval(left) == int(right)  # digits and operators written by the task


def test_answers_agree_with_independent_arithmetic():
    rng = random.Random(7)
    for _ in range(200):
        product = FAMILIES["multiplication"](rng)
        assert isinstance(product, Multiplication)
        assert int(product.answer) == product.left * product.right
        euclid = FAMILIES["euclid"](rng)
        assert isinstance(euclid, Euclid)
        assert int(euclid.answer) == math.gcd(euclid.left, euclid.right)
        factoring = FAMILIES["factoring"](rng)
        assert isinstance(factoring, Factoring)
        factors = [int(factor) for factor in factoring.answer.split("*")]
        assert math.prod(factors) == factoring.number
        assert factors == sorted(factors)
        assert all(all(p % d for d in range(2, p)) for p in factors)
        table = FAMILIES["table"](rng)
        assert isinstance(table, Table)
        assert int(table.answer) == table.base * table.rows


def test_lists_are_sorted_reversed_and_filtered():
    numbers = (41, 7, 93, 22)
    assert _numbers(Sorting(numbers, descending=False).answer) == [7, 22, 41, 93]
    assert _numbers(Sorting(numbers, descending=True).answer) == [93, 41, 22, 7]
    assert _numbers(Reversing(numbers).answer) == [22, 93, 7, 41]
    assert _numbers(Filtering(numbers, odd=True).answer) == [41, 7, 93]
    assert Filtering((2, 4), odd=True).answer == "none"
    assert Largest(numbers).answer == "93"


def test_a_sort_inserts_one_number_per_line():
    reply = Sorting((41, 7, 93), descending=True).reply(random.Random(0))
    assert reply == "41: 41\n7: 7 41\n93: 7 41 93\nAnswer: 93 41 7"


def test_collatz_from_six_takes_eight_steps():
    collatz = Collatz(6)
    assert collatz.trajectory == (3, 10, 5, 16, 8, 4, 2, 1)
    assert collatz.answer == "8"


@pytest.mark.parametrize(
    ("counting", "last"), [(Counting(5, 3, 7), "19"), (Counting(9, 4, -2), "3")]
)
def test_counting_says_as_many_numbers_as_asked(counting: Counting, last: str):
    assert counting.answer == last
    assert len(counting.reply(random.Random(0)).splitlines()) == counting.items + 2


def test_follow_ups_need_the_turn_before():
    rng = random.Random(11)
    asked = {follow_up(rng).messages[-1][1] for _ in range(500)}
    assert {"Sort it descending.", "Reverse it.", "Only the odd ones.", "Again with 17."} <= asked


def test_a_follow_up_is_answered_from_the_turn_before():
    rng = random.Random(12)
    addition = Addition(4827, 936)
    answers = {following.text: following.problem.answer for following in _followed(addition, rng)}
    for text, answer in answers.items():
        number = int(re.findall(r"\d+", text)[0])
        left = 4827 if "with" in text else 4827 + 936
        assert int(answer) == left + number


def _followed(problem: Problem, rng: random.Random) -> list[FollowUp]:
    drawn = [problem.follow(rng) for _ in range(50)]
    return [following for following in drawn if following is not None]


def test_rechecks_vary_the_length_and_not_the_answer():
    addition = FAMILIES["addition"](random.Random(2))
    replies = {addition.reply(random.Random(seed)) for seed in range(40)}
    assert len({len(reply) for reply in replies}) > 1
    assert {extract_answer(reply) for reply in replies} == {addition.answer}
    shortest = min(replies, key=len)
    share = sum(addition.reply(random.Random(seed)) == shortest for seed in range(400)) / 400
    assert share > 0.5


def test_the_answer_follows_the_last_mark():
    assert extract_answer(f"{ANSWER_MARK} 1\n{ANSWER_MARK} 22 \nrest") == "22"
    assert extract_answer(" Hello! ") == "Hello!"


def test_topics_are_drawn_from_their_seed():
    assert draw_topic(random.Random(4)) == draw_topic(random.Random(4))


def test_the_command_prints_json_lines():
    command = [sys.executable, "-m", "train.tasks", "--n", "1", "--seed", "6"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [json.loads(line) for line in printed.splitlines()]
    assert [line["family"] for line in lines] == [*FAMILIES, FOLLOW_UP_FAMILY]
    assert set(lines[0]) == {"family", "messages", "answer"}
    assert lines[0]["messages"][-1]["role"] == "user"

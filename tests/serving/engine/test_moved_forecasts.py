"""What the length head says of a reply does not depend on where the row is, or has been."""

from itertools import pairwise

import pytest

from predictor.reading import PLAIN
from serving.forecast.forecast import Prediction
from serving.messages import Role, WorkerId
from serving.request import TurnId
from tests.serving.engine.test_policies import D0, P0, follow, moved
from tests.support.compiles import no_compiles
from tests.support.local_fleet import Answer, sampling, turn
from tests.support.tiny_cluster import Cluster, oracle, prompt

LENGTH = 30
ASKED = turn("a", prompt(11), sampling(LENGTH, temperature=0.8, seed=5))


def said(answer: Answer) -> list[Prediction]:
    """What was predicted, at every place of the reply."""
    assert answer.tokens == oracle(ASKED.tokens, ASKED.sampling)
    (end,) = answer.ends
    assert [one.generated for one in end.predictions] == list(range(LENGTH))
    return list(end.predictions)


def agree(ours: list[Prediction], theirs: list[Prediction]) -> None:
    """Up to what meshes of other degrees round."""
    means = [one.mean for one in theirs]
    assert [one.mean for one in ours] == pytest.approx(means, abs=1e-2)
    assert max(abs(a - b) for a, b in pairwise(means)) > 1.5, "they all agree"


@pytest.fixture(scope="module")
def stayed(wide_decode: Cluster) -> list[Prediction]:
    """Of a row that has never been elsewhere."""
    fleet = wide_decode.fleet(role=Role.BOTH, reader=PLAIN)
    predictions = said(fleet.ask(ASKED))
    assert fleet.moved_bytes == 0
    return predictions


@pytest.mark.parametrize("homes", [[P0], [P0, D0, P0]], ids=len)
def test_a_row_that_moves_is_predicted_as_if_it_had_stayed(
    wide_decode: Cluster, stayed: list[Prediction], homes: list[WorkerId]
):
    fleet = wide_decode.fleet(role=Role.BOTH, reader=PLAIN)
    with no_compiles():
        answer = fleet.submit(ASKED)
        fleet.run(follow(fleet, TurnId("a"), homes, after=5))
    assert moved(fleet) == homes
    agree(said(answer), stayed)


def test_a_row_that_was_handed_off_is_predicted_as_if_it_had_stayed(
    wide_decode: Cluster, stayed: list[Prediction]
):
    fleet = wide_decode.fleet(reader=PLAIN)
    with no_compiles():
        answer = fleet.ask(ASKED)
    assert fleet.moved_bytes > 0
    agree(said(answer), stayed)

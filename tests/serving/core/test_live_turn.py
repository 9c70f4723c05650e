from serving.core.live_turn import LiveTurn, PendingMove
from serving.core.sessions import Session
from serving.forecast.forecast import Forecast, Prediction
from serving.messages import TaskId, WorkerId
from serving.request import SessionId, Slo
from tests.support.sharp_lengths import sharp
from tests.support.turns import make_turn

P0, D0, D1 = (WorkerId(name) for name in ("p0", "d0", "d1"))


def live(*, forecast: int = 8, max_tokens: int = 100) -> LiveTurn:
    turn = make_turn("t", range(5), max_tokens=max_tokens)
    return LiveTurn(
        turn=turn,
        session=Session(SessionId("s"), None, None, None, (), 0.0, 1, 1),
        arrived=3.0,
        tokens=list(turn.tokens),
        names=[],
        slo=Slo(1.0, 0.1),
        curve=sharp(forecast),
        expected_len=5 + forecast,
        task=TaskId(turn.id, 0),
        prompt_len=turn.prompt_len,
    )


def test_what_is_replied_and_what_may_come_add_up():
    one = live(max_tokens=4)
    one.tokens += [9, 9, 9]
    assert (one.replied, one.max_new_len) == (3, 1)


def test_the_workers_of_an_attempt_are_those_that_know_of_it():
    one = live()
    assert one.workers == []
    one.prefill, one.owner = P0, D0
    one.move = PendingMove(1, D1, "test", 0.0, 0.0, 1.0, overdue=False)
    assert one.workers == [P0, D0, D1]


def test_less_is_expected_the_longer_a_reply_is():
    one = live(forecast=8)
    first = one.expected_left
    one.tokens += [9] * 4
    assert 0 < one.expected_left < first


def test_a_reply_that_outlives_its_forecast_is_expected_to_go_on():
    one = live(forecast=8)
    one.tokens += [9] * 40
    assert one.expected_left > 1
    assert one.expected_left <= one.max_new_len


def reading(generated: int, left: int) -> Forecast:
    prediction = Prediction(generated, float(left), left, left)
    return Forecast(generated, sharp(left), (), prediction)


def test_a_late_reading_of_an_earlier_place_is_told_and_changes_nothing():
    """A row's former worker and its new one are not ordered with each other."""
    one = live()
    one.tokens += [9] * 21
    later = reading(20, 16)
    for forecast in (reading(0, 8), later, reading(10, 64)):
        one.foresee(forecast)
    assert (one.forecast, one.curve, one.curve_from) == (later, later.curve, 20)
    assert one.expected_left == 16
    assert [said.generated for said in one.predictions] == [0, 10, 20]


def test_a_reading_that_is_told_again_is_kept_once():
    one = live()
    one.foresee(reading(0, 64))
    one.foresee(reading(20, 16))
    one.tokens += [9] * 24
    left = one.expected_left
    for again in (reading(20, 16), reading(0, 64)):
        one.foresee(again)
    assert [said.generated for said in one.predictions] == [0, 20]
    assert one.expected_left == left < 16


def test_a_reading_may_overtake_the_tokens_before_it():
    one = live()
    one.foresee(reading(20, 16))
    assert one.since_curve == 0
    assert one.make_task().remaining.quantile(0.5) == sharp(16).quantile(0.5)


def test_no_more_is_expected_than_may_come():
    one = live(forecast=64, max_tokens=10)
    assert one.expected_left == 10


def test_an_expectation_serves_until_the_reply_has_grown_by_a_share():
    one = live(forecast=1000, max_tokens=5000)
    one.tokens += [9] * 80
    at_80 = one.expected_left
    one.tokens += [9] * 10
    assert one.expected_left == at_80
    one.tokens += [9]
    assert one.expected_left < at_80


def test_a_task_holds_all_tokens_known_and_the_curve_of_what_is_left():
    one = live(forecast=8, max_tokens=20)
    one.tokens += [7, 8]
    task = one.make_task()
    assert (task.tokens, task.replied) == ((0, 1, 2, 3, 4, 7, 8), 2)
    assert (task.arrived, task.slo, task.session) == (3.0, Slo(1.0, 0.1), "s")
    assert task.remaining.still_running(4) == 1.0
    assert task.remaining.still_running(8) == 0.0

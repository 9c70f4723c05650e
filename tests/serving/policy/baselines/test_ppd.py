"""PPD's order of tests, over a measured table and over predicted times."""

import pytest

from serving.policy.baselines.ppd import ppd
from serving.policy.ppd_table import Cell, CellKey, PpdTable
from serving.policy.route import Local, Remote, RouteConfig, RouteContext
from serving.policy.views import OwnerView, PrefillView, TurnView
from tests.support.fake_costs import LinearCosts
from tests.support.route_views import owner, prefill, residents, runs_until, turn

LOCAL_WINS = Cell(ttft_remote_s=2.0, ttft_local_s=1.0, tpot_remote_s=1.0, tpot_local_s=1.4)
REMOTE_WINS = Cell(ttft_remote_s=2.0, ttft_local_s=1.0, tpot_remote_s=1.0, tpot_local_s=1.6)
HUGE_PASTE = turn(1100, remaining=runs_until(64), arrival_rate=4.0)
HOME = owner(500)
A_SECOND_A_TOKEN = LinearCosts(new_s=1.0)


def ask(
    task: TurnView,
    home: OwnerView,
    *workers: PrefillView,
    table: PpdTable | None = None,
    costs: LinearCosts = A_SECOND_A_TOKEN,
    w_tpot: float = 1.0,
) -> Local | Remote:
    context = RouteContext(costs, RouteConfig(w_tpot=w_tpot), table)
    return ppd(task, home, workers or (prefill(),), context)


def table(cell: Cell, context: str = "small", workload: str = "huge_paste") -> PpdTable:
    return PpdTable.of({CellKey(context, workload, 4.0): cell})


def test_a_first_turn_is_remote_however_short():
    decision = ask(turn(10, number=0), owner(), table=table(LOCAL_WINS))
    assert decision.reason == "first_turn"
    assert isinstance(decision, Remote)


@pytest.mark.parametrize(("cached_len", "reason"), [(589, "bypass"), (588, "score_remote")])
def test_fewer_new_tokens_than_the_bypass_never_reach_the_table(cached_len: int, reason: str):
    measured = table(REMOTE_WINS, "large", "big_paste")
    assert ask(HUGE_PASTE, owner(cached_len), table=measured).reason == reason


def test_evicted_history_counts_as_new_tokens():
    decision = ask(turn(1100, arrival_rate=4.0), owner(0), table=table(REMOTE_WINS))
    assert decision.reason == "score_remote"


def test_a_cell_with_a_positive_score_is_local():
    decision = ask(HUGE_PASTE, HOME, table=table(LOCAL_WINS))
    assert decision.reason == "score_local"
    assert isinstance(decision, Local)


def test_a_cell_with_a_negative_score_is_remote():
    decision = ask(HUGE_PASTE, HOME, table=table(REMOTE_WINS))
    assert decision.reason == "score_remote"
    assert isinstance(decision, Remote)


def test_a_score_of_zero_is_remote():
    even = Cell(2.0, 1.0, 1.0, 1.5)
    assert ask(HUGE_PASTE, HOME, table=table(even)).reason == "score_remote"


def test_the_weights_turn_a_cell():
    assert ask(HUGE_PASTE, HOME, table=table(LOCAL_WINS), w_tpot=2.0).reason == "score_remote"


def test_a_cell_that_was_not_measured_is_local():
    decision = ask(HUGE_PASTE, HOME, table=table(REMOTE_WINS, workload="tiny"))
    assert decision.reason == "unknown_cell"
    assert isinstance(decision, Local)


def test_the_replys_forecast_and_not_its_limit_chooses_the_cell():
    generous = turn(1100, max_new_len=100_000, remaining=runs_until(64), arrival_rate=4.0)
    assert ask(generous, HOME, table=table(LOCAL_WINS)).reason == "score_local"


def test_the_limit_counts_where_it_is_shorter_than_the_forecast():
    cut = turn(1100, max_new_len=8, remaining=runs_until(2048), arrival_rate=4.0)
    assert ask(cut, HOME, table=table(LOCAL_WINS)).reason == "score_local"


def test_history_never_flows_to_the_prefill_worker():
    decision = ask(HUGE_PASTE, HOME, table=table(REMOTE_WINS))
    assert isinstance(decision, Remote)
    assert decision.history == "recompute"


# ---- without a table: the same score of predicted times ------------------------------------------


def test_predicted_times_keep_a_turn_that_gains():
    # 600 s here, 1,100 s there: 45 % of the TTFT gained, and nobody decodes.
    assert ask(HUGE_PASTE, HOME).reason == "score_local"


def test_predicted_times_send_a_turn_away_that_loses():
    assert ask(HUGE_PASTE, owner(500, queued_s=501.0)).reason == "score_remote"


def test_the_mean_rise_of_tpot_is_set_against_the_gain():
    # One step of 601 s in place of 1 s, over 1,000 tokens of 1 s: 60 % lost for 45 % gained.
    costs = LinearCosts(new_s=1.0, row_s=1.0)
    home = owner(500, rows=residents(1000))
    assert ask(HUGE_PASTE, home, costs=costs).reason == "score_remote"
    assert ask(HUGE_PASTE, owner(500, rows=residents(2000)), costs=costs).reason == "score_local"


def test_the_log_shows_what_was_weighed_against_each_other_the_chosen_one_first():
    def told(home: OwnerView, **table_or_costs) -> list[str]:
        return [option.choice for option in ask(HUGE_PASTE, home, **table_or_costs).options]

    assert told(HOME) == ["local", "p0"]
    assert told(owner(500, queued_s=501.0)) == ["p0", "local"]
    assert told(HOME, table=table(LOCAL_WINS)) == ["local"]
    assert told(HOME, table=table(REMOTE_WINS)) == ["p0"]

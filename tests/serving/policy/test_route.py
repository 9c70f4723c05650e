from hypothesis import given
from hypothesis import strategies as st

from serving.messages import WorkerId
from serving.policy.route import Local, Remote, route
from serving.policy.views import DecodeView, PrefillView, TaskView

OWNER = DecodeView(WorkerId("d0"), 0, 0, 0, 100)
TASK = TaskView(prompt_len=10, max_new_len=5)


def prefill(name: str, *, queued: int = 0, turns: int = 0) -> PrefillView:
    return PrefillView(WorkerId(name), queued, turns)


def worker(*views: PrefillView) -> str:
    decision = route(TASK, OWNER, views)
    assert isinstance(decision, Remote)
    return decision.worker


def test_without_prefill_workers_the_owner_prefills():
    assert route(TASK, OWNER, []) == Local("no_prefill_worker")


def test_the_shortest_queue_in_tokens_wins_over_fewer_turns():
    assert worker(prefill("a", queued=50, turns=1), prefill("b", queued=40, turns=9)) == "b"


def test_equal_queues_go_to_the_fewer_turns():
    assert worker(prefill("a", turns=2), prefill("b", turns=1)) == "b"


def test_a_full_tie_goes_to_the_smaller_id_in_any_order():
    assert worker(prefill("b"), prefill("a")) == worker(prefill("a"), prefill("b")) == "a"


@given(
    st.lists(
        st.builds(
            PrefillView,
            st.text("abc", min_size=1, max_size=3).map(WorkerId),
            st.integers(0, 9),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=6,
        unique_by=lambda v: v.worker,
    )
)
def test_nobody_has_a_shorter_queue_than_the_chosen(views):
    queued = {v.worker: v.queued for v in views}
    assert queued[WorkerId(worker(*views))] == min(queued.values())

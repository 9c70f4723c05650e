from hypothesis import given
from hypothesis import strategies as st

from serving.messages import WorkerId
from serving.policy.place import place
from serving.policy.views import DecodeView


def view(
    name: str, *, load: int = 0, turns: int = 0, sessions: int = 0, capacity: int = 100
) -> DecodeView:
    return DecodeView(WorkerId(name), load, turns, sessions, capacity)


def chosen(*views: DecodeView) -> str:
    placement = place(views)
    assert placement is not None
    return placement.worker


def test_no_worker_is_no_placement():
    assert place([]) is None


def test_one_long_conversation_outweighs_many_short_ones():
    assert chosen(view("a", load=60, turns=1), view("b", load=50, turns=10)) == "b"


def test_load_is_relative_to_capacity():
    assert chosen(view("a", load=30, capacity=40), view("b", load=50, capacity=100)) == "b"


def test_equal_load_goes_to_the_fewer_turns():
    assert chosen(view("a", load=5, turns=2), view("b", load=5, turns=1)) == "b"


def test_a_quiet_server_spreads_sessions():
    assert chosen(view("a", sessions=3), view("b", sessions=2)) == "b"


def test_a_full_tie_goes_to_the_smaller_id_in_any_order():
    assert chosen(view("b"), view("a")) == chosen(view("a"), view("b")) == "a"


VIEWS = st.lists(
    st.builds(
        DecodeView,
        st.text("abcdef", min_size=1, max_size=3).map(WorkerId),
        st.integers(0, 50),
        st.integers(0, 3),
        st.integers(0, 3),
        st.sampled_from((10, 20)),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda v: v.worker,
)


@given(VIEWS, st.randoms(use_true_random=False))
def test_the_choice_is_least_loaded_and_does_not_depend_on_the_order(views, random):
    shuffled = list(views)
    random.shuffle(shuffled)
    best = next(v for v in views if v.worker == chosen(*views))
    assert chosen(*shuffled) == best.worker
    assert all(best.load * v.capacity <= v.load * best.capacity for v in views)

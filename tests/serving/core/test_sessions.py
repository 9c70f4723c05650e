from serving.core.prefix import chain
from serving.core.sessions import Session, Sessions
from serving.messages import WorkerId
from tests.support.turns import make_turn


def new_sessions(*, max_sessions: int = 100, ttl_s: float = 60.0) -> Sessions:
    return Sessions(max_sessions=max_sessions, ttl_s=ttl_s, page_size=4)


def say(
    sessions: Sessions,
    prompt: list[int],
    reply: list[int],
    *,
    now: float = 0.0,
    session: str | None = None,
    salt: str = "",
) -> Session:
    """A whole turn: it comes, is answered and is remembered."""
    found = sessions.join(make_turn("t", prompt, session=session, salt=salt), now)
    sessions.remember(found, chain(salt, prompt, 4), (*prompt, *reply), now)
    return found


def test_a_key_finds_its_session_whatever_the_tokens():
    sessions = new_sessions()
    first = say(sessions, [1, 2], [3], session="k")
    assert say(sessions, [9, 9], [9], session="k") is first


def test_two_first_turns_with_one_key_share_a_session_before_either_ended():
    sessions = new_sessions()
    first = sessions.join(make_turn("a", [1], session="k"), 0.0)
    assert sessions.join(make_turn("b", [2], session="k"), 0.0) is first
    assert first.live_turns == 2


def test_a_prompt_that_continues_prompt_and_reply_joins_without_a_key():
    sessions = new_sessions()
    first = say(sessions, [1, 2, 3], [4, 5, 6])
    assert say(sessions, [1, 2, 3, 4, 5, 6, 7], [8]) is first


def test_a_session_is_found_at_every_length_around_a_page_edge():
    for length in range(1, 14):
        sessions = new_sessions()
        tokens = list(range(100, 100 + length))
        first = say(sessions, tokens, [1])
        assert say(sessions, [*tokens, 1, 2], [3]) is first
        assert say(sessions, [*tokens, 2, 2], [3]) is not first


def test_a_shared_system_prompt_never_joins_two_conversations():
    sessions = new_sessions()
    system = list(range(100, 120))
    first = say(sessions, [*system, 1], [2])
    other = say(sessions, [*system, 3], [4])
    assert other is not first
    assert say(sessions, [*system, 3, 4, 5], [6]) is other


def test_the_same_first_prompt_twice_opens_two_sessions():
    sessions = new_sessions()
    first = say(sessions, [1, 2, 3], [4])
    assert say(sessions, [1, 2, 3], [5]) is not first


def test_the_longest_of_several_conversations_is_continued():
    sessions = new_sessions()
    short = say(sessions, [1, 2, 3], [4])
    long = say(sessions, [1, 2, 3], [4, 5, 6, 7, 8, 9])
    assert long is not short
    assert say(sessions, [1, 2, 3, 4, 5, 6, 7, 8, 9, 1], [2]) is long


def test_of_equal_conversations_the_one_used_last_is_continued():
    sessions = new_sessions()
    first = say(sessions, [1, 2, 3], [4, 5], now=0.0)
    second = say(sessions, [1, 2, 3], [4, 5], now=1.0)
    assert second is not first
    live = sessions.join(make_turn("t", [1, 2, 3, 4, 5, 6]), 2.0)
    assert live is second
    sessions.remember(live, chain("", [], 4), (1, 2, 3, 4, 5, 6, 7), 2.0)
    assert say(sessions, [1, 2, 3, 4, 5, 8], [9], now=3.0) is first
    assert say(sessions, [1, 2, 3, 4, 5, 8], [9], now=4.0) not in (first, second)


def test_the_use_of_one_of_equal_conversations_makes_it_the_last_used():
    sessions = new_sessions()
    first, second = (sessions.join(make_turn("t", [1, 2], session=key), 0.0) for key in ("a", "b"))
    for session in (first, second):
        sessions.remember(session, chain("", [1, 2], 4), (1, 2, 3), 1.0)
    assert sessions.join(make_turn("t", [1, 2, 3, 4]), 2.0) is second
    assert sessions.join(make_turn("t", [1, 2], session="a"), 3.0) is first
    assert sessions.join(make_turn("t", [1, 2, 3, 4]), 4.0) is first


def test_a_conversation_moves_on_and_is_no_longer_found_at_its_old_end():
    sessions = new_sessions()
    first = say(sessions, [1, 2, 3], [4])
    assert say(sessions, [1, 2, 3, 4, 5], [6]) is first
    assert say(sessions, [1, 2, 3, 4, 9], [6]) is not first


def test_salts_are_separate_with_and_without_keys():
    sessions = new_sessions()
    keyed = say(sessions, [1], [2], session="k", salt="x")
    assert say(sessions, [1], [2], session="k", salt="y") is not keyed
    plain = say(sessions, [1, 2], [3], salt="x")
    assert say(sessions, [1, 2, 3, 4], [5], salt="y") is not plain


def test_the_least_recently_used_leaves_when_the_table_is_full():
    sessions = new_sessions(max_sessions=2)
    first = say(sessions, [1], [2], session="a", now=0.0)
    second = say(sessions, [1], [2], session="b", now=1.0)
    say(sessions, [1], [2], session="a", now=2.0)
    say(sessions, [1], [2], session="c", now=3.0)
    assert len(sessions) == 2
    assert say(sessions, [1], [2], session="a", now=4.0) is first
    assert say(sessions, [1], [2], session="b", now=5.0) is not second


def test_a_session_with_a_live_turn_is_never_dropped():
    sessions = new_sessions(max_sessions=1, ttl_s=1.0)
    live = sessions.join(make_turn("a", [1], session="a"), 0.0)
    say(sessions, [1], [2], session="b", now=1.0)
    sessions.expire(100.0)
    assert sessions.join(make_turn("c", [1], session="a"), 101.0) is live


def test_an_idle_session_is_forgotten_after_its_time():
    sessions = new_sessions(ttl_s=10.0)
    first = say(sessions, [1, 2, 3], [4], now=0.0)
    sessions.expire(10.0)
    assert len(sessions) == 1
    sessions.expire(10.1)
    assert len(sessions) == 0
    assert say(sessions, [1, 2, 3, 4, 5], [6], now=11.0) is not first


def test_use_prolongs_a_session():
    sessions = new_sessions(ttl_s=10.0)
    first = say(sessions, [1, 2, 3], [4], now=0.0)
    say(sessions, [1, 2, 3, 4, 5], [6], now=9.0)
    sessions.expire(18.0)
    assert say(sessions, [1, 2, 3, 4, 5, 6, 7], [8], now=18.0) is first


def test_sessions_are_counted_for_their_owner_until_they_or_it_are_gone():
    sessions = new_sessions(max_sessions=2)
    one, two = WorkerId("d0"), WorkerId("d1")
    for i, owner in enumerate((one, one, two)):
        session = say(sessions, [i], [9], session=str(i), now=float(i))
        sessions.own(session, owner)
    assert (sessions.owned_by(one), sessions.owned_by(two)) == (1, 1)
    sessions.disown(two)
    assert (sessions.owned_by(one), sessions.owned_by(two)) == (1, 0)
    assert say(sessions, [2], [9], session="2", now=9.0).owner is None
    sessions.expire(1000.0)
    assert sessions.owned_by(one) == 0

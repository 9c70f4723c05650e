"""The load that drifts apart: the same from one seed, in groups of chats of two manners."""

from statistics import fmean

from benchmarks.skewed_load import (
    GROUP_EVERY_S,
    GROUP_SIZE,
    GROUP_WITHIN_S,
    LATER_TURNS,
    LONG_ITEMS,
    Chat,
    chats,
)


def talks_much(chat: Chat) -> bool:
    return all(ask.question.startswith("Count ") for ask in chat.asks[1:])


def test_chats_are_the_same_for_a_seed():
    assert chats(1, 20.0) == chats(1, 20.0)
    assert chats(1, 20.0) != chats(2, 20.0)


def test_groups_begin_together_and_within_the_time():
    begun = [chat.start_s for chat in chats(0, 2 * GROUP_EVERY_S + 1.0)]
    assert len(begun) == 3 * GROUP_SIZE
    assert all(start % GROUP_EVERY_S <= GROUP_WITHIN_S for start in begun)
    assert {int(start // GROUP_EVERY_S) for start in begun} == {0, 1, 2}
    assert len(chats(0, GROUP_EVERY_S)) == GROUP_SIZE


def test_half_of_the_chats_ask_for_long_lists_and_no_opening_tells_them_apart():
    many = [chat for seed in range(20) for chat in chats(seed, 5 * GROUP_EVERY_S)]
    much = [chat for chat in many if talks_much(chat)]
    assert 0.45 < len(much) / len(many) < 0.55
    assert not any(chat.asks[0].question.startswith("Count") for chat in many)
    for chat in many:
        assert len(chat.asks) == 1 + LATER_TURNS[talks_much(chat)]
        assert chat.asks[0].think_s == 0.0
    items = [int(ask.question.split()[1]) for chat in much for ask in chat.asks[1:]]
    assert (min(items), max(items)) == LONG_ITEMS


def test_who_talks_much_gathers_by_chance():
    """Chats are placed in turn before anyone knows: often one half has twice the other's."""
    uneven = []
    for seed in range(200):
        much = [talks_much(chat) for chat in chats(seed, GROUP_EVERY_S)]
        halves = sum(much[::2]), sum(much[1::2])
        uneven.append(max(halves) >= 2 * min(halves) and max(halves) > 1)
    assert fmean(uneven) > 0.3

"""Made-up text: equal names, equal text."""

from serving.replay.text import WORDS, Author
from serving.workload.session import Span

AUTHOR = Author(seed=1, vocab=100)


def test_equal_names_begin_alike_and_others_do_not():
    short, long = AUTHOR.shared_ids(Span(5, 20)), AUTHOR.shared_ids(Span(5, 50))
    assert (len(short), len(long)) == (20, 50)
    assert long[:20] == short
    assert AUTHOR.shared_ids(Span(6, 20)) != short
    assert AUTHOR.shared_words(Span(5, 50))[:20] == AUTHOR.shared_words(Span(5, 20))


def test_each_turn_has_its_own_text_and_each_seed_too():
    texts = [
        AUTHOR.own_ids("s1.0", 20),
        AUTHOR.own_ids("s1.1", 20),
        AUTHOR.shared_ids(Span(1, 20)),
        Author(seed=2, vocab=100).own_ids("s1.0", 20),
        Author(seed=2, vocab=100).shared_ids(Span(1, 20)),
    ]
    assert len({tuple(text) for text in texts}) == 5
    assert AUTHOR.own_ids("s1.0", 20) == texts[0]


def test_ids_are_ordinary_ones_of_the_vocabulary():
    assert set(AUTHOR.own_ids("a", 2000)) == set(range(10, 100))
    assert set(Author(seed=1, vocab=20).own_ids("a", 500)) == set(range(10, 20))
    assert set(Author(seed=1, vocab=19).own_ids("a", 500)) == set(range(19))


def test_words_are_one_each():
    words = AUTHOR.own_words("a", 300)
    assert len(words) == 300
    assert set(words) <= set(WORDS)
    assert len(set(WORDS)) == len(WORDS)
    assert not any(" " in word for word in WORDS)

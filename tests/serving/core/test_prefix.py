import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.prefix import DIGEST_BYTES, chain, chain_on, extend, root

TOKENS = st.lists(st.integers(0, 3), max_size=12)


def test_a_chain_names_every_prefix_of_whole_pages():
    names = chain("", [1, 2, 3, 4, 5], 2)
    assert names == [root(""), extend(root(""), [1, 2]), extend(names[1], [3, 4])]
    assert all(len(name) == DIGEST_BYTES for name in names)


def test_names_are_the_same_in_every_process():
    assert chain("tenant", [1, 2, 151_000], 3)[1].hex() == "b026a8fcc689adfda2f8b8adbacf35ac"


def test_a_token_id_that_does_not_fit_is_an_error():
    with pytest.raises(OverflowError):
        extend(root(""), [2**31])


@given(TOKENS, TOKENS, st.sampled_from(("", "a")), st.sampled_from(("", "a")))
def test_two_names_are_equal_exactly_if_salt_and_all_tokens_before_are(a, b, salt_a, salt_b):
    for i, x in enumerate(chain(salt_a, a, 2)):
        for j, y in enumerate(chain(salt_b, b, 2)):
            assert (x == y) == (salt_a == salt_b and i == j and a[: 2 * i] == b[: 2 * j])


@given(TOKENS, st.integers(0, 6))
def test_a_chain_goes_on_from_any_names_that_are_known(tokens, pages: int):
    longer = chain("a", [*tokens, 1, 2, 3, 4], 2)
    assert chain_on(longer[: 1 + pages], tokens, 2) == chain("a", tokens, 2)

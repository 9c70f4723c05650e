from serving.core.mirror import PageMirror
from serving.core.prefix import chain

PROMPT = chain("", range(14), 4)  # the root and three pages


def test_the_full_pages_of_a_prompt_count_up_to_the_first_that_is_missing():
    mirror = PageMirror(4)
    assert mirror.cached_len(PROMPT) == 0
    mirror.change(PROMPT[1:3], ())
    assert mirror.cached_len(PROMPT) == 8
    mirror.change(PROMPT[3:], ())
    assert mirror.cached_len(PROMPT) == 12


def test_an_eviction_shortens_what_is_cached():
    mirror = PageMirror(4)
    mirror.change(PROMPT[1:], ())
    mirror.change((), [PROMPT[2]])
    assert mirror.cached_len(PROMPT) == 4


def test_a_page_behind_a_gap_does_not_count_and_the_root_is_no_page():
    mirror = PageMirror(4)
    mirror.change([PROMPT[0], PROMPT[3]], ())
    assert mirror.cached_len(PROMPT) == 0
    assert mirror.cached_len(PROMPT[:1]) == 0


def test_another_tenant_s_pages_are_other_pages():
    mirror = PageMirror(4)
    mirror.change(PROMPT[1:], ())
    assert mirror.cached_len(chain("tenant", range(14), 4)) == 0

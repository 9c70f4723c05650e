"""What is no number stays in its row: the others' results do not change by a bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.contained import contained
from model.attention.inputs import places
from model.attention.paged import BLOCKED, REFERENCE
from tests.model.attention.test_paged import PAGE, ROWS, step


@pytest.mark.parametrize("backend", [pytest.param(REFERENCE, marks=pytest.mark.slow), BLOCKED])
def test_others_see_nothing_of_it(backend):
    (pool, q, k, v), inputs = step([6, 40], [(3, 7), (5, 9)], heads=2, group=2, seed=4, tokens=20)
    where = places(inputs, num_chunk_tokens=20, page_size=PAGE)

    @jax.jit
    def attended(k, v):
        attention = backend.over(pool, inputs, where, group=2, window=None)
        kv, out = contained(attention.attend)(attention.kv, jnp.int32(1), q, k, v)
        return out, attention.store(kv)

    whole, _ = attended(k, v)
    padding = ROWS - 1
    spoilt = [1, padding, ROWS + 3, ROWS + 7 + 8]  # a row, a chunk's token, another's last
    # The rest of the first chunk sees its token: as a zero where it is no number.
    others = [t for t in range(len(q)) if t not in spoilt and not ROWS + 3 < t < ROWS + 7]
    for value in (np.nan, -np.inf):
        bad_k = k.at[jnp.array(spoilt[:2]), 0, 2].set(value)
        bad_v = v.at[jnp.array(spoilt[2:]), 1, 0].set(value)
        out, after = attended(bad_k, bad_v)
        own = np.isnan(np.array(out)).any(axis=(1, 2, 3))
        assert np.flatnonzero(own).tolist() == spoilt
        np.testing.assert_array_equal(np.array(out)[others], np.array(whole)[others])
        assert np.isfinite(after).all(), "and nothing of it is stored"

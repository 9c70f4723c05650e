import jax
import jax.numpy as jnp
import numpy as np

from model import kv_pages
from tests.model.test_sharding import CONFIG


def pool(num_pages=6):
    shape = kv_pages.pool_shape(CONFIG, num_pages=num_pages, page_size=4)
    return jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)


def test_gathered_pages_come_back_elsewhere_unchanged():
    pages, elsewhere = jnp.array([4, 2, 0]), jnp.array([1, 5, 0])
    payload = kv_pages.gather(pool(), pages)
    assert payload.shape[1] == 3
    after = kv_pages.scatter(pool(), payload, elsewhere)
    np.testing.assert_array_equal(after[:, [1, 5]], pool()[:, [4, 2]])
    np.testing.assert_array_equal(after[:, [2, 3, 4]], pool()[:, [2, 3, 4]])


def test_write_and_scatter_keep_a_donated_pool_in_place():
    before = pool()
    pointer = before.unsafe_buffer_pointer()
    token = jnp.zeros((CONFIG.num_layers, 1, 2, CONFIG.num_kv_heads, CONFIG.head_dim))
    write = jax.jit(kv_pages.write, donate_argnums=0)
    after = write(before, token, jnp.array([3]), jnp.array([2]))
    assert before.is_deleted()
    assert after.unsafe_buffer_pointer() == pointer
    scatter = jax.jit(kv_pages.scatter, donate_argnums=0)
    payload = jnp.ones((CONFIG.num_layers, 1, *after.shape[2:]))
    assert scatter(after, payload, jnp.array([1])).unsafe_buffer_pointer() == pointer


def test_what_eight_bits_cannot_hold_is_cut_and_the_rest_rounded():
    x = jnp.array([1e9, -500.0, 448.0, 1.07, 0.0])
    small = kv_pages.kept(x, "float8_e4m3fn").astype(jnp.float32)
    np.testing.assert_array_equal(small, [448.0, -448.0, 448.0, 1.125, 0.0])
    np.testing.assert_array_equal(kv_pages.kept(x, "float32"), x)


def test_what_was_written_is_read_position_by_position():
    token = np.random.default_rng(0).normal(
        size=(CONFIG.num_layers, 1, 2, CONFIG.num_kv_heads, CONFIG.head_dim)
    )
    page, offset = jnp.array([3]), jnp.array([2])
    after = kv_pages.write(pool(), jnp.asarray(token, jnp.float32), page, offset)
    keys, values = kv_pages.read(after, 1, jnp.array([[5, 3]]))
    assert keys.shape == (1, 2, 4, CONFIG.num_kv_heads, CONFIG.head_dim)
    np.testing.assert_allclose(keys[0, 1, 2], token[1, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(values[0, 1, 2], token[1, 0, 1], rtol=1e-6)
    np.testing.assert_array_equal(keys[0, 0, 3], after[1, 5, 0, :, 3])

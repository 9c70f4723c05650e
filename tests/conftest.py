"""Eight fake CPU devices for every test, set before JAX makes its backend; no deadlines."""

import jax
from hypothesis import settings

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

# By default every example is timed, which fails on a busy machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

"""Eight fake CPU devices for every test, set before JAX makes its backend; how hypothesis draws."""

import jax
from hypothesis import settings

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

# Without deadlines, which fail on a busy machine. A change is judged by the same examples every
# time; new ones are looked for with `--hypothesis-profile explore`, and what they find is fixed.
settings.register_profile("gate", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile("gate")

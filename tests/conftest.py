"""Eight fake CPU devices for every test, set before JAX makes its backend; how hypothesis draws.

Tests marked `gpu` run with `XLA_FLAGS= JAX_PLATFORMS=cuda,cpu pytest -m gpu`, those marked `tpu`
with `XLA_FLAGS= JAX_PLATFORMS=tpu,cpu pytest -m tpu`; they are skipped where JAX finds no such
device.
"""

import os

import jax
import pytest
from hypothesis import settings

# Compiling is what most tests of the engine take: code that runs slower is there sooner (a
# worker's programs in a quarter of the time). Servers that tests start inherit it. Unknown flags
# end the process, and JAX 0.11 knows only the first of them. `XLA_FLAGS=` tests what users run.
QUICK_TO_COMPILE = ["--xla_backend_optimization_level=0"]
if jax.__version_info__ < (0, 11):
    QUICK_TO_COMPILE.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(QUICK_TO_COMPILE))

jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_num_cpu_devices", 8)

# Without deadlines, which fail on a busy machine. A change is judged by the same examples every
# time; new ones are looked for with `--hypothesis-profile explore`, and what they find is fixed.
settings.register_profile("gate", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile("gate")


@pytest.fixture
def gpu():
    """A GPU that multiplies float32 as such: it rounds to 10 bits else, in the reference too."""
    try:
        device = jax.devices("gpu")[0]
    except RuntimeError:
        pytest.skip("JAX finds no GPU here")
    jax.config.update("jax_default_matmul_precision", "highest")  # programs compile in threads
    yield device
    jax.config.update("jax_default_matmul_precision", None)


@pytest.fixture(scope="session")
def tpu_device():
    """A TPU."""
    try:
        return jax.devices("tpu")[0]
    except RuntimeError:
        pytest.skip("JAX finds no TPU here")

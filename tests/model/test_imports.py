"""Importing the model needs no framework for serving or from elsewhere; its config needs no JAX."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "model").rglob("*.py")
    if path.name != "__init__.py"
)


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        (MODULES, {"torch", "transformers", "fastapi", "uvicorn", "serving", "train"}),
        (["model.config"], {"jax", "numpy"}),
    ],
    ids=["all", "config"],
)
def test_importing_leaves_these_out(modules: list[str], absent: set[str]):
    script = f"import sys, {', '.join(modules)}\nprint(sorted({absent!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

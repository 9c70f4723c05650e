"""Is the code shaped as ARCHITECTURE.md says? File sizes, imports, and the table of messages."""

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from serving import messages

ROOT = Path(__file__).parents[2]
PACKAGES = ("model", "predictor", "serving", "train", "benchmarks", "tests")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAX_LINES = 400
LONG_FILES: dict[str, str] = {  # path -> why it is one piece
    "serving/messages.py": "the one table of all events and actions, a few lines each",
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_long_files_are_named_with_a_reason(path: Path):
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES or LONG_FILES.get(name_of(path)), f"{lines} lines"


def test_every_file_named_as_long_exists_and_is_long():
    for name in LONG_FILES:
        assert len((ROOT / name).read_text().splitlines()) > MAX_LINES


def modules_under(*names: str) -> list[str]:
    """The modules of packages and files, by dotted name."""
    found: list[str] = []
    for name in names:
        path = ROOT / name
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
        found += [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    return [module.removesuffix(".__init__") for module in found]


def loaded_by(modules: list[str]) -> set[str]:
    """The top-level packages in memory after a fresh interpreter imported `modules`."""
    code = "import sys\n" + "".join(f"import {module}\n" for module in modules)
    code += "print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_control_plane_imports_without_jax():
    modules = modules_under(
        "serving/core",
        "serving/policy",
        "serving/costs",
        "serving/forecast",
        "serving/messages",
        "serving/config",
        "serving/request",
        "serving/assembly",
        "serving/workload",
        "serving/sim",
    )
    assert "serving.core.coordinator" in modules
    assert "serving.sim.simulation" in modules
    assert "serving.costs.make" in modules
    assert not loaded_by(modules) & {"jax", "jaxlib", "flax", "fastapi", "uvicorn", "asyncio"}


def test_the_engine_imports_without_an_http_framework_or_torch():
    modules = modules_under("model", "serving/engine")
    assert "serving.engine.loop" in modules
    loaded = loaded_by(modules)
    assert "jax" in loaded
    assert not loaded & {"fastapi", "starlette", "uvicorn", "torch", "transformers"}


def test_what_measures_a_device_imports_with_little_more_than_jax_there():
    """Such a machine has what a step needs, and nothing of what an endpoint does."""
    modules = [*modules_under("model", "benchmarks/h200"), "serving.engine.profile"]
    assert "benchmarks.h200.steps" in modules
    loaded = loaded_by([module for module in modules if not module.endswith("__main__")])
    assert not loaded & {"fastapi", "starlette", "pydantic", "llguidance", "prometheus_client"}


def messages_in(union: object) -> set[str]:
    return {kind.__name__ for kind in get_args(union)}


def test_the_message_table_names_every_message_and_no_other():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    table = text.partition("## Messages")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert len(listed) == len(set(listed)), "a message is listed twice"
    unions = (messages.Event, messages.WorkerMessage, messages.Action)
    expected = set().union(*(messages_in(union) for union in unions)) | {"Deliver"}
    assert set(listed) == expected

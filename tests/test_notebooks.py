"""Does every notebook run from its first cell to its last, and is what is saved in it fit to show?

The cells are run as plain Python, without Jupyter: they hold no magics, and a cell shows the figure
that it leaves behind.
"""

import base64
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PICTURES = {
    "length_prediction.ipynb": 5,
    "performance.ipynb": 2,
    "planning.ipynb": 2,
    "scheduling.ipynb": 3,
}
MOST_BYTES = 1_500_000


def cells_of(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def name_of(path: Path) -> str:
    return path.name


def test_pictures_are_counted_for_every_notebook():
    assert {path.name for path in NOTEBOOKS} == set(PICTURES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_what_is_saved_shows_every_picture_and_names_no_machine(path: Path):
    outputs = [output for cell in cells_of(path) for output in cell["outputs"]]
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in str(output)]
    assert len(pictures) == PICTURES[path.name]
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)
    assert path.stat().st_size < MOST_BYTES
    said = re.sub(r'"image/png": "[^"]*"', "", path.read_text(encoding="utf-8"))
    assert not re.search(r"/(home|root|tmp|work|Users|usr)/", said)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_a_notebook_runs_on_a_few_sessions(path: Path, tmp_path: Path, monkeypatch):
    mpl.use("agg")
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("FORETOKEN_SESSIONS", "20")
    for name in ("FORETOKEN_RECORDS", "FORETOKEN_EVALUATION"):
        monkeypatch.delenv(name, raising=False)
    pictures, names = 0, {}
    for number, cell in enumerate(cells_of(path), 1):
        exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), names)
        for figure in map(plt.figure, plt.get_fignums()):
            figure.savefig(tmp_path / f"{number}.png")
            pictures += 1
        plt.close("all")
    assert pictures == PICTURES[path.name]

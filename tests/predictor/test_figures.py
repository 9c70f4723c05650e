"""Whether pictures show the right numbers; how they look is for eyes."""

from dataclasses import replace
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt

from predictor import figures
from predictor.edges import EDGES
from predictor.figures import LEVELS, Seen
from predictor.metrics import LEAST
from tests.predictor.test_records import made

FAMILIES = ("adding", "sorting")
EIGHT = EDGES.index(8)


@pytest.fixture(autouse=True)
def no_window():
    mpl.use("agg")
    yield
    plt.close("all")


def even(count: int) -> np.ndarray:
    """Curves that fall in a straight line from 1 at 0 tokens to 0 at 8."""
    return np.tile(1 - np.array(EDGES[: EIGHT + 1]) / 8, (count, 1))


def seen(generated: list[int], remaining: list[int], reply: list[int]) -> Seen:
    count = len(generated)
    records = replace(
        made(0, count),
        generated=np.array(generated, np.int32),
        remaining=np.array(remaining, np.int32),
        reply=np.array(reply, np.int32),
        limit=np.full(count, 5000, np.int32),
        censored=np.zeros(count, bool),
        family=np.zeros(count, np.int32),
    )
    return Seen(records, even(count), FAMILIES)


def repeated(times: int) -> Seen:
    """Lengths that are as likely as the curves say: 1 to 8 equally often."""
    remaining = list(range(1, 9)) * times
    return seen([0] * len(remaining), remaining, list(range(len(remaining))))


def points(axes, label: str) -> np.ndarray:
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return np.stack([np.asarray(line.get_xdata()), np.asarray(line.get_ydata())], axis=1)


def test_a_quantile_covers_lengths_up_to_it():
    # The quantile q of 1 to 8 is 8 q, rounded up; it covers as many of the eight.
    shares = figures.covered(repeated(2))
    assert shares == pytest.approx(np.ceil(8 * LEVELS - 1e-9) / 8)
    assert figures.distance(shares) == pytest.approx(
        (np.ceil(8 * LEVELS - 1e-9) / 8 - LEVELS).mean()
    )


def test_calibration_is_drawn_in_percent_for_all_and_for_families():
    some = repeated(10)
    wrong = np.arange(80) % 2 == 1
    records = replace(
        some.records,
        family=wrong.astype(np.int32),
        remaining=np.where(wrong, 1, some.records.remaining).astype(np.int32),
    )
    both = replace(some, records=records)
    (axes,) = figures.draw_calibration(both).axes
    drawn = points(axes, "worst family: sorting")
    assert drawn[:, 0] == pytest.approx(LEVELS * 100)
    assert drawn[:, 1] == pytest.approx(100.0)
    best = points(axes, "best family: adding")[:, 1]
    assert best == pytest.approx(figures.covered(both.of(~wrong)) * 100)
    assert points(axes, "all families")[:, 1] == pytest.approx((best + 100) / 2)


def test_lengths_stated_as_one_number_are_certain():
    some = repeated(1)
    assert not figures.certain(some)
    sure = (np.array(EDGES[: EIGHT + 1]) < 4).astype(np.float64)  # between 3 and 4
    assert figures.certain(replace(some, curves=np.tile(sure, (8, 1))))


def test_a_tenth_is_named_by_the_tokens_that_it_spans():
    # Twenty places; the two at 0 are a tenth, and the edge to the next lies above them.
    places = [0, 0, *range(10, 28)]
    labels = figures.position_labels(seen(places, [1] * 20, [0] * 20).records)
    assert labels["0"] == "0"
    assert labels["9"] == "26-27"
    assert "".join(labels) == "0123456789"


def test_a_server_reads_at_the_first_token_and_at_a_stride():
    some = seen([24, 0, 1, 4, 44, 2, 0], [9, 9, 9, 9, 9, 9, 9], [3, 3, 3, 3, 3, 3, 5])
    assert figures.links(some.records, 3).tolist() == [1, 0, 4]


def test_the_reply_of_middle_length_is_chosen_and_its_end_is_drawn():
    places = (0, 20, 40, 60)
    lengths = {7: 70, 8: 90, 9: 200}
    lengths |= dict.fromkeys(range(100, 100 + LEAST), 61)  # cut off
    rows = [(place, length - place, reply) for reply, length in lengths.items() for place in places]
    some = seen(*(list(column) for column in zip(*rows, strict=True)))
    some = replace(some, records=replace(some.records, censored=some.records.reply >= 100))
    ((name, chosen),) = figures.chosen(some)
    assert name == "adding"
    assert some.records.reply[chosen].tolist() == [8] * 4
    assert some.records.generated[chosen].tolist() == list(places)
    axes = figures.draw_unfolding(some).axes[0]
    assert axes.get_title(loc="left") == "adding: 90 tokens"
    starts = [
        np.asarray(line.get_xdata())[0]
        for line in axes.lines
        if len(np.asarray(line.get_xdata())) > 2
    ]
    assert starts == list(places)
    ends = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [np.asarray(line.get_xdata()).tolist() for line in ends] == [[90, 90]]
    medians = [np.asarray(line.get_xdata())[0] for line in axes.lines if line.get_marker() == "o"]
    assert medians == [place + 4 for place in places]


def test_a_part_is_worth_what_the_error_is_above_without_it():
    found = {
        "predictors": {
            "mine": {"all": {"mae": 30.0}},
            "survivors": {"all": {"mae": 90.0}},
            "mine, not smoothed": {"all": {"mae": 40.0}},
            "other": {"all": {"mae": 24.0}},
            "other, not smoothed": {"all": {"mae": 25.0}},
        },
        "reduction": {
            "mine, not smoothed": {"share": 0.25, "interval": [0.2, 0.5]},
            "other": {"share": -0.25, "interval": [-1.0, 0.0]},
        },
    }
    parts = figures.parts(found)
    assert list(parts) == ["as served", "not smoothed", "other"]
    assert [error for error, _ in parts.values()] == [30.0, 40.0, 24.0]
    assert parts["as served"][1] is None
    assert parts["not smoothed"][1] == pytest.approx((1 / 3, 1 / 4, 1.0))
    assert parts["other"][1] == pytest.approx((-0.2, -0.5, 0.0))
    (axes,) = figures.draw_parts(found).axes
    bars: Any = axes.patches
    assert [bar.get_width() for bar in bars] == [30.0, 40.0, 24.0]
    assert [text.get_text().strip() for text in axes.texts][1] == "40.0   +33.3 % (+25.0 to +100.0)"


def figures_of(error: float) -> dict:
    def group(*names: str) -> dict:
        return {name: {"mae": error + nth} for nth, name in enumerate(names)}

    return {
        "family": group("adding", "sorting"),
        "position": group("1", "2", "9"),
        "progress": group("0", "9"),
    }


MEASURED = {
    "predictors": {
        "mine": figures_of(1.0),
        "constant median": figures_of(30.0),
        "median by position": figures_of(20.0),
        "survivors": figures_of(10.0),
    }
}


def test_errors_are_drawn_at_their_tenth():
    spans = {"1": "0", "2": "1-7", "9": "8-90"}
    left, right = figures.draw_errors_along(MEASURED, spans).axes
    assert [label.get_text() for label in left.get_xticklabels()] == ["0", "1-7", "8-90"]
    assert points(left, "length head")[:, 1].tolist() == [1.0, 2.0, 3.0]
    assert points(left, "constant median")[:, 1].tolist() == [30.0, 31.0, 32.0]
    assert [label.get_text() for label in right.get_xticklabels()] == ["0-10", "90-100"]
    assert points(right, "survivors")[:, 1].tolist() == [10.0, 11.0]


def test_families_are_ordered_by_the_error_of_the_head():
    (axes,) = figures.draw_errors_by_family(MEASURED).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["adding", "sorting"]
    assert points(axes, "length head").tolist() == [[1.0, 0.0], [2.0, 1.0]]
    assert points(axes, "median by position")[:, 0].tolist() == [20.0, 21.0]

"""Predictions of remaining lengths are compared with the replies that came."""

import pytest

from serving.forecast.forecast import Prediction
from serving.messages import LoadReport, Role, WorkerId
from serving.metrics import ServerLabels
from serving.metrics.catalog import Catalog
from serving.metrics.predicted import LEAST_REPLIES, REPLIES, Predicted

SERVER, WORKER = ("m", "0"), ("m", "1")
LABELS = ServerLabels(
    "m", 5000, ((WorkerId("d0"), Role.BOTH), (WorkerId("d1"), Role.BOTH)), 16, "float32"
)


class Watched:
    """What is written, and the series that it is written to."""

    def __init__(self) -> None:
        self.catalog = Catalog(LABELS)
        self.predicted = Predicted(self.catalog, SERVER)

    def replies(self, count: int, *, covered: bool) -> None:
        for _ in range(count):
            said = Prediction(0, 10.0, 10, 20)
            self.predicted.on_reply(WORKER, [said], 20 if covered else 21)

    def read(self, name: str, row: tuple[str, str] = SERVER) -> float:
        family = self.catalog.values[f"foretoken:{name}"].family()
        (found,) = [
            one.value
            for one in family.samples
            if (one.labels["model_name"], one.labels["engine"]) == row
        ]
        return found

    def errors(self) -> dict[str, tuple[float, float]]:
        """Count and sum of the errors of the worker, by place, where there are any."""
        name = "foretoken:predicted_remaining_tokens_abs_error"
        samples = [
            one
            for one in self.catalog.histograms[name].family().samples
            if one.labels["engine"] == WORKER[1]
        ]
        found = {
            kind: {s.labels["generated"]: s.value for s in samples if s.name == f"{name}_{kind}"}
            for kind in ("count", "sum")
        }
        return {
            place: (count, found["sum"][place]) for place, count in found["count"].items() if count
        }


def test_errors_are_those_of_the_median_by_place_in_the_reply():
    watched = Watched()
    said = [
        Prediction(0, 70.0, 90, 200),  # 100 came: 10 too few
        Prediction(1, 70.0, 102, 200),  # 99 came: 3 too many
        Prediction(19, 70.0, 80, 200),  # 81 came
        Prediction(20, 70.0, 80, 200),  # 80 came
        Prediction(99, 70.0, 6, 200),  # 1 came
    ]
    watched.predicted.on_reply(WORKER, said, 100)
    assert watched.errors() == {"0": (1, 10), "1": (2, 4), "20": (1, 0), "50": (1, 5)}


def test_places_beyond_the_last_class_are_in_it():
    watched = Watched()
    watched.predicted.on_reply(WORKER, [Prediction(4000, 5.0, 5, 9)], 4007)
    assert watched.errors() == {"2000": (1, 2)}


def test_coverage_is_the_share_of_predictions_under_their_quantile_for_each_reply_alike():
    watched = Watched()
    # Of the first reply half of the predictions hold, one of them just so; of the second all.
    watched.predicted.on_reply(WORKER, [Prediction(0, 5.0, 5, 20), Prediction(10, 5.0, 5, 9)], 20)
    assert watched.read("predicted_q90_coverage") == 0.5
    watched.predicted.on_reply(WORKER, [Prediction(0, 5.0, 5, 20)], 20)
    assert watched.read("predicted_q90_coverage") == 0.75


def test_a_reply_of_which_nothing_was_said_does_not_count():
    watched = Watched()
    watched.replies(1, covered=True)
    watched.predicted.on_reply(WORKER, [], 500)
    assert watched.read("predicted_q90_coverage") == 1
    assert sum(count for count, _ in watched.errors().values()) == 1


def test_coverage_is_that_of_the_last_thousand_replies():
    watched = Watched()
    watched.replies(500, covered=False)
    watched.replies(REPLIES - 1, covered=True)
    assert watched.read("predicted_q90_coverage") == pytest.approx(0.999)
    watched.replies(1, covered=True)
    assert watched.read("predicted_q90_coverage") == 1


def test_there_is_no_alarm_before_enough_replies():
    watched = Watched()
    watched.replies(LEAST_REPLIES - 1, covered=False)
    assert watched.read("length_head_misses") == 0
    watched.replies(1, covered=False)
    assert watched.read("length_head_misses") == 1


@pytest.mark.parametrize(("covered", "alarm"), [(150, 0), (149, 1)])
def test_the_alarm_is_for_coverage_below_three_quarters(covered: int, alarm: int):
    watched = Watched()
    watched.replies(covered, covered=True)
    watched.replies(200 - covered, covered=False)
    assert watched.read("length_head_misses") == alarm


def test_the_alarm_ends_when_quantiles_hold_again():
    watched = Watched()
    watched.replies(100, covered=False)
    watched.replies(299, covered=True)
    assert watched.read("length_head_misses") == 1
    watched.replies(1, covered=True)
    assert watched.read("length_head_misses") == 0


@pytest.mark.parametrize(("serves", "missing"), [(True, False), (False, True), (False, False)])
def test_a_head_is_announced(serves: bool, missing: bool):
    watched = Watched()
    watched.predicted.on_head(serves=serves, missing=missing)
    assert watched.read("length_head_served") == serves
    assert watched.read("length_head_unusable") == missing


def test_each_worker_tells_its_tilt_and_what_it_could_not_read():
    watched = Watched()
    report = LoadReport(WorkerId("d1"), 0, 0, 0, 0, 0, 0, 0, 0, unreadable=3, tilt=-0.25)
    watched.predicted.on_report(WORKER, report)
    assert watched.read("length_head_tilt", WORKER) == -0.25
    assert watched.read("length_head_unreadable", WORKER) == 3
    assert watched.read("length_head_tilt", SERVER) == 0

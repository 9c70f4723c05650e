"""Like failures have like reasons, whatever the server's way to say them."""

import json

import pytest

from serving.replay.failure import refused


@pytest.mark.parametrize(
    ("status", "body", "reason", "message"),
    [
        (
            429,
            {"error": {"code": "queue_full", "type": "T", "message": "m"}},
            "429 queue_full",
            "m",
        ),
        (
            400,
            {"error": {"code": None, "type": "BadRequest", "message": "m"}},
            "400 BadRequest",
            "m",
        ),
        (400, {"object": "error", "code": 400, "type": "Bad", "message": "m"}, "400 Bad", "m"),
        (400, {"error": {"code": 400, "message": "m"}}, "400", "m"),
        (500, {"error": "m"}, "500", "m"),
        (500, {"detail": "m"}, "500", '{"detail": "m"}'),
        (502, [1], "502", "[1]"),
    ],
)
def test_reasons_of_error_statuses(status, body, reason, message):
    failure = refused(status, json.dumps(body).encode())
    assert (failure.reason, failure.message) == (reason, message)


def test_an_answer_that_is_no_json_says_what_it_is():
    failure = refused(502, b"<html>bad gateway\n")
    assert (failure.reason, failure.message) == ("502", "<html>bad gateway")

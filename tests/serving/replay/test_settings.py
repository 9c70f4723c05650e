"""Addresses of servers, with and without the API's own path."""

import pytest

from serving.config import ConfigError
from serving.replay.settings import base_url


@pytest.mark.parametrize("text", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_an_address_ends_before_v1(text):
    assert base_url(text) == "http://h:1"


def test_a_path_before_v1_stays():
    assert base_url("https://h/models/v1") == "https://h/models"


@pytest.mark.parametrize(
    "text", ["", "h:8000", "ftp://h", "http://", "http://h:99999", "http://[h"]
)
def test_what_is_no_address_is_named(text):
    with pytest.raises(ConfigError, match="is no address; use http://host:port"):
        base_url(text)

"""Which numbers does nobody mean? A greatest value for every whole number, and finite ones.

Far beyond what has been served or simulated, so that a slip of the finger is one line and not a
program that runs out of memory. What too small a number is, the settings themselves know.
"""

from collections.abc import Mapping
from dataclasses import fields
from math import isfinite
from typing import Any

import click

from serving.config import require

MOST_WORKERS = 4096
MOST_ROWS = 2**16
MOST_TOKENS = 2**20
INT64 = 2**63 - 1
INT32 = 2**31 - 1
"""What devices count with: the greatest of every whole number that has no bound of its own."""

MOST: Mapping[str, int] = {
    "prefill_workers": MOST_WORKERS,
    "decode_workers": MOST_WORKERS,
    "prefill_tp": MOST_WORKERS,
    "decode_tp": MOST_WORKERS,
    "page_size": MOST_ROWS,
    "max_num_seqs": MOST_ROWS,
    "max_prefill_rows": MOST_ROWS,
    "max_num_batched_tokens": MOST_TOKENS,
    "min_prefill_tokens": MOST_TOKENS,
    "host_kv_gib": 2**20,
    "max_stored_bytes": 2**50,
    "seed": INT64,
}


def check_numbers(part: Any) -> None:
    """Raise ConfigError for a number of this part of the settings that nobody means."""
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, int) or field.name in MOST:
            most = MOST.get(field.name, INT32)
            flag = f"--{field.name.replace('_', '-')}"
            require(value <= most, f"{flag} must be at most {most}")
            require(-most - 1 <= value, f"{flag} must be at least {-most - 1}")


class Finite(click.FloatRange):
    """A range of numbers without infinity, and without nan, which click finds in every range."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number; raises BadParameter for one that is not in the range."""
        number = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"{number} is not a finite number.", param, ctx)
        return number

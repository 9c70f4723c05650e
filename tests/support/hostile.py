"""Schemas of a few lines that no compiler gets through."""

from typing import Any


def chained(links: int) -> dict[str, Any]:
    """References behind references: they are resolved one in another, on the stack."""
    names = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(links)}
    return {"$defs": {**names, f"d{links}": {"type": "null"}}, "$ref": "#/$defs/d0"}


CHAINED = chained(3000)
"""More than the stack of a thread has room for, mostly 8 MiB."""

ENDLESS: dict[str, Any] = {
    "allOf": [{"type": "string", "pattern": f"(a|b)*a(a|b){{{i}}}"} for i in range(18)]
}
"""Patterns that only a machine of 2 ** 18 states could follow all at once."""

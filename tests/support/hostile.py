"""Schemas of a few lines that no compiler gets through."""

from typing import Any

_LINKS = 3000

CHAINED: dict[str, Any] = {
    "$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(_LINKS)}
    | {f"d{_LINKS}": {"type": "null"}},
    "$ref": "#/$defs/d0",
}
"""References behind references: resolved one in another, they overflow a thread's stack."""

ENDLESS: dict[str, Any] = {
    "allOf": [{"type": "string", "pattern": f"(a|b)*a(a|b){{{i}}}"} for i in range(18)]
}
"""Patterns that only a machine of 2 ** 18 states could follow all at once."""

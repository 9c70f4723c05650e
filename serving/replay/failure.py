"""Why did a turn fail? A short reason to count by, and what the server said about it."""

import json
from collections.abc import Mapping
from typing import Any, cast


class TurnFailed(Exception):
    """A turn that gets no whole reply. `reason` is short and alike for like failures."""

    def __init__(self, reason: str, message: str) -> None:
        """Say why, for counting, and in the server's own words."""
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


def refused(status: int, body: bytes) -> TurnFailed:
    """Return what an answer with an error status means: `429 queue_full`, else `502`."""
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    error = error_in(value)
    if error is None:
        return TurnFailed(str(status), body.decode(errors="replace").strip())
    kind, message = _told(error)
    # Some servers repeat the status as the code.
    return TurnFailed(f"{status} {kind}" if kind not in ("", str(status)) else str(status), message)


def broken_off(error: Mapping[str, Any]) -> TurnFailed:
    """Return what an error within a stream means."""
    kind, message = _told(error)
    return TurnFailed(f"stream: {kind or 'error'}", message)


def error_in(value: Any) -> Mapping[str, Any] | None:
    """Return the error object of an answer or event; None if it has none."""
    if not isinstance(value, dict):
        return None
    fields = cast("dict[str, Any]", value)
    if fields.get("object") == "error":
        return fields
    error = fields.get("error")
    if isinstance(error, str):
        return {"message": error}
    return cast("dict[str, Any]", error) if isinstance(error, dict) else None


def _told(error: Mapping[str, Any]) -> tuple[str, str]:
    code = error.get("code")
    # A number is a status, which says less than the type.
    kind = code if isinstance(code, str) and code else error.get("type") or code or ""
    return str(kind), str(error.get("message") or "")

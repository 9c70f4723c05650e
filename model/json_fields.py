"""What does a JSON settings file say? Typed access where every complaint names file and field.

Knows nothing of models: which fields exist and what they mean is the caller's business.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.errors import CheckpointError


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds; raise CheckpointError for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(path, "no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(path, f"cannot be read: {error}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(path, f"holds a JSON {type(value).__name__}, not an object")
    return value


class Fields:
    """A JSON object with the file it came from. A field that is null counts as absent.

    Every getter raises CheckpointError naming the field when its value has the wrong type, and
    when it is absent and no default is given.
    """

    def __init__(self, path: Path, values: Mapping[str, Any], *, prefix: str) -> None:
        self.path = path
        self._values = values
        self._prefix = prefix

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def names(self) -> list[str]:
        """Return the names of the fields that are present."""
        return [name for name, value in self._values.items() if value is not None]

    def error(self, name: str, problem: str) -> CheckpointError:
        """Return an error about one field, to be raised by the caller."""
        return CheckpointError(self.path, f"{self._prefix}{name}: {problem}")

    def raw(self, name: str) -> Any:
        """Return the field as it stands; None when absent."""
        return self._values.get(name)

    def integer(self, name: str, default: int | None = None) -> int:
        """Return an integer field; whole floats such as 4096.0 count."""
        value = self._present(name, default)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(name, f"expected an integer, found {value!r}")
        return value

    def optional_integer(self, name: str, unmentioned: int | None) -> int | None:
        """Return an integer field, None when it is null, `unmentioned` when it is not there."""
        if name not in self._values:
            return unmentioned
        return None if self._values[name] is None else self.integer(name)

    def number(self, name: str, default: float | None = None) -> float:
        """Return a finite number as float."""
        value = self._present(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(name, f"expected a number, found {value!r}")
        if not abs(value) < float("inf"):
            raise self.error(name, f"expected a finite number, found {value!r}")
        return float(value)

    def boolean(self, name: str, default: bool | None = None) -> bool:
        """Return a true-or-false field."""
        value = self._present(name, default)
        if not isinstance(value, bool):
            raise self.error(name, f"expected true or false, found {value!r}")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """Return a string field."""
        value = self._present(name, default)
        if not isinstance(value, str):
            raise self.error(name, f"expected a string, found {value!r}")
        return value

    def texts(self, name: str) -> list[str]:
        """Return a list of strings; empty when absent."""
        value = self._values.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(name, f"expected a list of strings, found {value!r}")
        return value

    def integers(self, name: str) -> list[int]:
        """Return an integer or a list of integers, as a list; empty when absent."""
        value = self._values.get(name)
        if value is None:
            return []
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, bool) or not isinstance(item, int) for item in items):
            raise self.error(name, f"expected an integer or a list of them, found {value!r}")
        return items

    def inside(self, name: str) -> "Fields":
        """Return the object that is nested under a field."""
        value = self._values.get(name)
        if not isinstance(value, dict):
            raise self.error(name, f"expected an object, found {value!r}")
        return Fields(self.path, value, prefix=f"{self._prefix}{name}.")

    def _present(self, name: str, default: Any) -> Any:
        value = self._values.get(name)
        if value is None:
            value = default
        if value is None:
            raise self.error(name, "missing")
        return value

"""What is said of weights that lie in their files in a way that is not read? With a way out."""

from model.errors import CheckpointError
from model.json_fields import Fields

WAY_OUT = "; the model that it was made of can be served with --quantize int8 or fp8"


def refused(fields: Fields, name: str, problem: str) -> CheckpointError:
    """Return an error about a field that asks for what is not served, to be raised."""
    return fields.error(name, problem + WAY_OUT)


def require(fields: Fields, name: str, default: str, known: tuple[str, ...]) -> str:
    """Return a field's text, `default` if it is absent; raises CheckpointError unless known."""
    value = fields.text(name, default)
    if value not in known:
        are = "is" if len(known) == 1 else "are"
        raise refused(fields, name, f"{value!r} is not supported ({' and '.join(known)} {are})")
    return value

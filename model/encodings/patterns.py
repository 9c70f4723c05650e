"""Which modules do a config.json's lists of names mean? As patterns that `re.match` takes.

Three conventions: that of compressed-tensors (`utils/match`), that of transformers' lists of
modules that are not converted (`quantizers/quantizers_utils`), and that of ModelOpt, where *
stands for anything.
"""

import re

from model.encodings.encodings import LINEAR
from model.json_fields import Fields

_REGEX = "re:"
_EMBEDDING = (r".*\bembed_tokens\Z",)
_CLASSES = {"Linear": LINEAR, "Embedding": _EMBEDDING}


def targets(fields: Fields, name: str) -> tuple[str, ...]:
    """Read a list of targets: whole names, patterns after `re:`, and names of classes.

    Other classes' modules have no weights that are read here.
    """
    found: list[str] = []
    for target in fields.texts(name):
        if target.startswith(_REGEX):
            found.append(checked(fields, name, target.removeprefix(_REGEX)))
        else:
            found += _CLASSES.get(target, (re.escape(target) + r"\Z",))
    return tuple(found)


def any_of(fields: Fields, name: str) -> tuple[str, ...]:
    """Read a list of modules: whatever is inside one that is named, and names that end so."""
    found: list[str] = []
    for module in fields.texts(name):
        bare = module.removeprefix(_REGEX)
        found.append(checked(fields, name, rf"(?:{bare})(?:(?<=\.)|(?=\.|\Z))"))
        found.append(rf".*{re.escape(bare)}\Z")
    return tuple(found)


def globs(fields: Fields, name: str) -> tuple[str, ...]:
    """Read a list of modules in which * stands for anything: whatever is inside one of them."""
    return tuple(
        re.escape(module).replace(r"\*", ".*") + r"(?:\.|\Z)" for module in fields.texts(name)
    )


def checked(fields: Fields, name: str, pattern: str) -> str:
    """Return a pattern that a field has; raises CheckpointError if it is none."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise fields.error(name, f"{pattern!r} is no pattern: {error}") from None
    return pattern

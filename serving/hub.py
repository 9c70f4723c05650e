"""Where are the files of a model that is named by its id on the Hugging Face Hub? In its cache.

Glue around `huggingface_hub`, which downloads, resumes, keeps and shows the progress of it, and
obeys its usual variables (HF_TOKEN, HF_HUB_OFFLINE, HF_HOME, HF_ENDPOINT). Ours is which files are
wanted, and one line for what goes wrong. Knows nothing of what is in the files.
"""

import errno
import re
import shutil
import signal
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from model.checkpoint_files import CONFIG, LENGTH_HEAD, SIZES, TEXT, WEIGHTS, WEIGHTS_INDEX
from model.config import load_config
from model.errors import CheckpointError
from model.tensor_files import can_be_read, indexed_files
from serving.config import ServerConfig, require

if TYPE_CHECKING:  # most commands need no huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
"""An owner and a name. The Hub's few models without an owner are of no family that is served."""
OTHER_LAYOUT = re.compile(r"consolidated.*\.safetensors")
"""Mistral's own copy of the weights, under other tensor names, beside the one that is read."""
GIB = 2**30
FULL = (errno.ENOSPC, errno.EDQUOT)


class Wanted(Enum):
    """How much of a checkpoint a command reads."""

    SIZES = "what the model's sizes are"
    NO_WEIGHTS = "all but the weights, which are drawn"
    WHOLE = "everything"


def is_on_hub(name: str) -> bool:
    """Tell whether a name is an id of the Hub; a folder of that name goes before."""
    return not Path(name).is_dir() and ID.fullmatch(name) is not None


def with_files(config: ServerConfig) -> ServerConfig:
    """Return the settings with the folder of what it takes to run the model, fetched if need be.

    An id's revision becomes the commit that was had. Raises ConfigError for a revision of what has
    none, and CheckpointError.
    """
    if not _is_fetched(config):
        _check_named(config.checkpoint)
        return config
    wanted = Wanted.NO_WEIGHTS if config.model.random_weights else Wanted.WHOLE
    folder = fetched(config.checkpoint, config.model.revision, wanted)
    source = replace(config.model, revision=folder.name)
    return replace(config, checkpoint=str(folder), model=source)


def with_sizes(config: ServerConfig) -> ServerConfig:
    """Return the settings with a folder that says which sizes the model has, fetched if need be.

    Raises as `with_files` does.
    """
    if not _is_fetched(config):
        return config
    folder = fetched(config.checkpoint, config.model.revision, Wanted.SIZES)
    return replace(config, checkpoint=str(folder))


def _is_fetched(config: ServerConfig) -> bool:
    name, revision = config.checkpoint, config.model.revision
    on_hub = is_on_hub(name)
    require(
        on_hub or revision is None,
        f"--revision {revision} has no effect: {name} is no id of a model on the Hugging Face Hub;"
        " leave it out",
    )
    return on_hub


def _check_named(name: str) -> None:
    """Raise CheckpointError for a name that is neither a folder nor a path to one."""
    if "/" not in name and not Path(name).exists():
        raise CheckpointError(
            name,
            "no such checkpoint directory; a model on the Hugging Face Hub is named with its owner,"
            " such as Qwen/Qwen3-0.6B",
        )


def fetched(name: str, revision: str | None, wanted: Wanted) -> Path:
    """Return the folder of a model's files, whose name is the commit that they are of.

    Downloads what the cache lacks, with progress on standard error. What cannot be served is
    refused before its weights are fetched. Raises CheckpointError.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.logging import disable_propagation

    disable_propagation()  # it writes its lines itself: a server's log would have them twice

    def fetch(commit: str | None, files: Collection[str]) -> Path:
        with _told(name, revision), _ended_at_once():
            folder = Path(snapshot_download(name, revision=commit, allow_patterns=list(files)))
        if not (folder / CONFIG).exists():
            raise CheckpointError(
                name,
                f"no {CONFIG} in it: it is in another format, such as GGUF; name the model that it"
                " was made of",
            )
        return folder

    if wanted is Wanted.SIZES:
        return fetch(revision, SIZES)
    if wanted is Wanted.NO_WEIGHTS:
        return fetch(revision, (*SIZES, *TEXT))
    folder = fetch(revision, (*SIZES, *TEXT, WEIGHTS_INDEX, f"{LENGTH_HEAD}/*"))
    load_config(folder)
    listed = _listed(name, folder)
    weights = weights_among(name, listed, folder / WEIGHTS_INDEX)
    _check_room(name, sum(listed[file] for file in weights if not (folder / file).exists()))
    return fetch(folder.name, weights)


def weights_among(name: str, files: Collection[str], index: Path) -> list[str]:
    """Return which of a repository's files hold the weights that are read, sorted.

    By the rule of `model/tensor_files`: the one file, the shards that the index names, else
    whatever lies beside it in that format. Raises CheckpointError if there are none.
    """
    if WEIGHTS in files:
        return [WEIGHTS]
    if index.exists():
        return sorted(set(indexed_files(index).values()) & set(files))
    beside = [file for file in files if "/" not in file and can_be_read(file)]
    found = sorted(file for file in beside if not OTHER_LAYOUT.fullmatch(file))
    if not found:
        raise CheckpointError(
            name, "no *.safetensors weights in it; name a model or a --revision that has some"
        )
    return found


def _listed(name: str, folder: Path) -> Mapping[str, int]:
    """Return the files of a commit and their bytes; where nobody has kept the list, those here."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        return {file.path: file.size for file in get_cached_repo_tree(name, revision=folder.name)}
    except CachedRepoTreeNotFoundError:
        return {path.name: path.stat().st_size for path in folder.iterdir()}


def _check_room(name: str, missing_bytes: int) -> None:
    """Raise CheckpointError if the cache's disk has no room for what has to come."""
    cache = _cache()
    free_bytes = shutil.disk_usage(cache).free
    if missing_bytes > free_bytes:
        raise CheckpointError(
            name,
            f"needs {missing_bytes / GIB:.1f} GiB more in {cache}, where {free_bytes / GIB:.1f} GiB"
            " are free; make room there, or set HF_HUB_CACHE to a folder that has it",
        )


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


@contextmanager
def _ended_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process: the library would first finish the files that are on their way.

    What had come of these stays in the cache, under names that end in `.incomplete`, for nothing.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _told(name: str, revision: str | None) -> Iterator[None]:
    """Tell in one line what went wrong with a download: CheckpointError."""
    try:
        yield
    except Exception as error:  # the HTTP client's, hf_xet's: they have no common one
        raise CheckpointError(name, problem_of(error, name, revision)) from error


def problem_of(error: BaseException, name: str, revision: str | None) -> str:
    """Say what went wrong with a download of a model, and what to do next, in one line."""
    from huggingface_hub import constants, errors

    hub, cache = constants.ENDPOINT, _cache()
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        return problem_of(error.__cause__, name, revision)
    match error:
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled():
            return (
                f"no folder here, and not all of it is in {cache}, while HF_HUB_OFFLINE is set;"
                " start once without it, or name a folder"
            )
        case errors.GatedRepoError():
            return (
                f"its owner grants access: ask for it at {hub}/{name}, then set HF_TOKEN to a token"
                f" of that account ({hub}/settings/tokens)"
            )
        case errors.RevisionNotFoundError():
            return (
                f"no --revision {revision or constants.DEFAULT_REVISION} of it; its branches and"
                f" tags are at {hub}/{name}/tree/main"
            )
        case errors.RepositoryNotFoundError() | errors.HFValidationError():
            return _not_found(hub)
        case errors.HfHubHTTPError():
            return _refusal(error, hub)
        case OSError(errno=number) if number in FULL:
            return f"{cache} is full; make room there, or set HF_HUB_CACHE to a folder that has it"
        case OSError(filename=str(path)):
            return (
                f"{path} cannot be written ({error.strerror}); set HF_HUB_CACHE to a folder that"
                " can be"
            )
        case _:
            return (
                f"{hub} cannot be reached ({_first_line(error)}), and not all of it is in {cache};"
                " see to the network and start again, or name a folder"
            )


def _refusal(error: "HfHubHTTPError", hub: str) -> str:
    status, sent = error.response.status_code, error.response.request.headers
    match status:
        case 401 if "authorization" not in sent:
            return _not_found(hub)  # what strangers are told of private models, and of none
        case 401 | 403:
            return (
                f"{hub} refuses the token in HF_TOKEN, or that of `hf auth login`;"
                f" {hub}/settings/tokens makes one that may read it"
            )
        case 429:
            return f"{hub} takes no more requests from here for now; wait, or set HF_TOKEN"
        case _:
            return f"{hub} fails ({_first_line(error)}); try again later"


def _not_found(hub: str) -> str:
    return (
        f"neither a folder here nor a model that {hub} shows; check the spelling, or set HF_TOKEN"
        " to a token that may read it if it is a private one"
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__

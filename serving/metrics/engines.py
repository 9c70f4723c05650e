"""Which worker is which `engine`, and what does it do? Labels of workers, as their roles change.

Knows nothing of series.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from serving.messages import Role, WorkerId

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServerLabels:
    """What the series are labelled with. `workers` in their stable order: the label `engine`."""

    model_name: str
    max_model_len: int
    workers: tuple[tuple[WorkerId, Role], ...]
    page_size: int
    cache_dtype: str

    def cache(self, num_pages: int) -> tuple[str, str, str, str]:
        """Return the labels that describe one worker's page pool."""
        return (str(self.page_size), str(num_pages), self.cache_dtype, "True")

    @property
    def engines(self) -> Sequence[str]:
        """Every value of the label `engine`; there is always one."""
        return [str(i) for i in range(max(1, len(self.workers)))]


class Engines:
    """The workers of one server. A worker that was not configured counts for engine 0."""

    def __init__(self, server: ServerLabels) -> None:
        self._model = server.model_name
        self._rows: dict[WorkerId | None, Row] = {
            worker: (self._model, str(i)) for i, (worker, _) in enumerate(server.workers)
        }
        self._nobody = (self._model, "0")
        self._roles = dict(server.workers)

    def __iter__(self) -> Iterator[WorkerId]:
        """Go through the workers in their order."""
        return iter(self._roles)

    def row(self, worker: WorkerId | None) -> Row:
        """Return the labels that every series of a worker has."""
        return self._rows.get(worker, self._nobody)

    def role(self, worker: WorkerId) -> Role | None:
        """Return what a worker does now; None if it has none."""
        return self._roles.get(worker)

    def set_role(self, worker: WorkerId, role: Role) -> None:
        """A worker has taken another role."""
        self._roles[worker] = role

    def lose(self, worker: WorkerId) -> None:
        """A worker is gone: it keeps its labels, and has no role."""
        self._roles.pop(worker, None)

    def direction(self, sender: WorkerId, to: WorkerId) -> str:
        """Name the way of a transfer: p2d, d2d or d2p."""
        return f"{self._letter(sender)}2{self._letter(to)}"

    def path(self, owner: WorkerId | None, choice: str) -> str:
        """Name the way of a turn whose tokens are prefilled at worker `choice`."""
        if choice != owner:
            return "remote_prefill"
        split = Role.PREFILL in self._roles.values()
        return "append_prefill" if split else "colocated"

    def _letter(self, worker: WorkerId) -> str:
        return "p" if self._roles.get(worker) is Role.PREFILL else "d"

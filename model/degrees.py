"""May so many devices share a model evenly? Of its sizes alone: no JAX, so planners can ask."""

from typing import NamedTuple


class Shared(NamedTuple):
    """The sizes of a model that tensor-parallel devices share (`model/sharding`)."""

    kv_heads: int
    mlp_columns: int
    vocabulary: int

    def problem(self, degree: int) -> str | None:
        """Say what `degree` devices cannot share evenly; None if there is nothing."""
        sizes = {
            "key-value heads": self.kv_heads,
            "MLP columns": self.mlp_columns,
            "vocabulary entries": self.vocabulary,
        }
        for name, size in sizes.items():
            if size % degree:
                return f"does not divide the model's {size} {name}"
        return None

"""How does an interrupted run go on? From the last state that was saved."""

from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

State = TypeVar("State")


def last_saved(manager: ocp.CheckpointManager, state: State) -> tuple[State, int | None]:
    """Return the last state saved, shaped like `state`, and its number; `state` itself if none."""
    done = manager.latest_step()
    if done is None:
        return state, None
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    restored: Any = manager.restore(done, args=ocp.args.StandardRestore(abstract))
    return restored, done

"""Fail when a program is compiled where none may be."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"


@contextmanager
def no_compiles() -> Iterator[None]:
    """Raise AssertionError at the end if XLA compiled anything in between, in any thread."""
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == _COMPILED:
            compiled.append(f"{kwargs.get('fun_name', 'a program')} in {duration_secs:.2f} s")

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not compiled, f"compiled after warm-up: {', '.join(compiled)}"

"""What must whoever forecasts replies offer? The code that decides knows only this."""

from typing import Protocol, runtime_checkable

from serving.forecast.survival import Survival


@runtime_checkable
class LengthModel(Protocol):
    """Forecasts the length of a reply before its first token, and learns from those that ended."""

    def observe(self, length: int, ended: bool) -> None:
        """Take a reply of `length` tokens that ended by itself, or else was cut off there."""
        ...

    def curve(self) -> Survival:
        """Return the curve of a reply that nothing cuts off."""
        ...

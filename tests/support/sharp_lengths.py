"""A length model that a person can compute: every reply is forecast to have the same length."""

from serving.forecast.survival import EDGES, Survival


def sharp(length: int) -> Survival:
    """The curve of a reply that has exactly `length` tokens still to come, to the edges' grain."""
    alive = [1.0 if edge < length else 0.0 for edge in EDGES]
    return Survival(tuple(alive))


class SharpLengths:
    """Forecasts `length` tokens for every reply, whatever it sees; remembers what it was told."""

    def __init__(self, length: int) -> None:
        self._curve = sharp(length)
        self.observed: list[tuple[int, bool]] = []

    def observe(self, length: int, ended: bool) -> None:
        self.observed.append((length, ended))

    def curve(self) -> Survival:
        return self._curve

"""How is one device's part of a weight quantised while it is read? Layer by layer.

So the weight never exists in full precision beyond one layer of it. A device that holds a part of
the axes that a matmul sums over needs the scale of the whole channel: its values then do not depend
on how many devices share the model. Knows nothing of files or devices.
"""

from collections.abc import Callable

import numpy as np

from model.parameters import Parameter
from model.quantised import FORMATS, Quantised, largest, quantise

Part = tuple[range, ...]  # one range per dimension of a parameter


def scale_part(parameter: Parameter, part: Part) -> Part:
    """Return which part of a parameter's scales belongs to a part of its values."""
    summed = parameter.summed_places
    return tuple(own for place, own in enumerate(part) if place not in summed)


class NotFiniteError(ValueError):
    """A weight holds NaN or infinity."""


class PartQuantiser:
    """Quantises the parts of one parameter, whose first axis is that of the layers."""

    def __init__(self, parameter: Parameter, form: str, read: Callable[[Part], np.ndarray]) -> None:
        """`read` returns any part of the parameter in float32."""
        self._parameter, self._form, self._read = parameter, form, read
        self._most: dict[Part, np.ndarray] = {}  # by whole channels, of which a part was read

    def quantise(self, part: Part, note: Callable[[int], None]) -> Quantised:
        """Return a part's values and scales, calling `note` with the bytes of a layer's values.

        Raises NotFiniteError.
        """
        summed = self._parameter.summed_places
        own = scale_part(self._parameter, part)
        values = np.empty([len(each) for each in part], FORMATS[self._form])
        scale = np.empty([len(each) for each in own], np.float32)
        for index, layer in enumerate(part[0]):
            one_layer = (range(layer, layer + 1), *part[1:])
            weight = self._read(one_layer)
            done = quantise(weight, self._largest(one_layer, weight), summed, self._form)
            values[index], scale[index] = done.values[0], done.scale[0]
            note(values[index].nbytes)
        return Quantised(values, scale)

    def _largest(self, part: Part, weight: np.ndarray) -> np.ndarray:
        """Return the largest magnitudes of a part's channels, of which others may hold a share."""
        summed = self._parameter.summed_places
        whole = tuple(
            range(size) if place in summed else own
            for place, (own, size) in enumerate(zip(part, self._parameter.shape, strict=True))
        )
        if whole == part:
            most = largest(weight, summed)
        elif whole in self._most:
            return self._most[whole]
        else:
            most = self._most[whole] = largest(self._read(whole), summed)
        if not np.isfinite(most).all():
            raise NotFiniteError
        return most

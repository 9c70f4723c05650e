"""By which latency model does a worker decide? The profile that was named, else the hardware."""

from pathlib import Path

from serving.config import ConfigError, CostsConfig
from serving.costs.costs import Costs
from serving.costs.hardware import PRESETS, HardwareSpec, preset_for
from serving.costs.measured import check_device, check_model, read_measured
from serving.costs.profile import Profile
from serving.costs.roofline import Roofline
from serving.costs.shape import ModelShape
from serving.messages import Role


def make_costs(
    config: CostsConfig, shape: ModelShape, device_kind: str, tp: int, role: Role
) -> Costs:
    """Make the costs of the workers of one role and degree.

    `device_kind` is what the devices call themselves. Raises ConfigError for a profile that does
    not fit, and for devices or names of hardware that nothing is known of.
    """
    roofline = Roofline(shape, choose_hardware(config.hardware, device_kind), tp)
    if config.costs is None:
        return roofline
    path = Path(config.costs)
    measured = read_measured(path)
    check_model(path, measured.origin.model, shape)
    check_device(path, measured.origin.device, device_kind)
    grid = measured.grid(role, tp)
    if grid is None:
        found = [f"{g.worker.role.value} over {g.worker.tp}" for g in measured.grids]
        raise ConfigError(
            f"{path}: workers: a {role.value} worker over {tp} devices was not measured"
            f" (found: {', '.join(found) or 'none'})"
        )
    try:
        return Profile(grid, roofline)
    except ValueError as error:
        place = f"workers[{measured.grids.index(grid)}]"
        raise ConfigError(f"{path}: {place}.{error}; finish it with foretoken profile") from None


def described_device(config: CostsConfig) -> str:
    """Say what devices that are not at hand call themselves: as where times were measured, if so.

    Raises ConfigError for a file that is none, or hardware that is not known.
    """
    if config.costs is None:
        return choose_hardware(config.hardware, "").name
    return read_measured(Path(config.costs)).origin.device


def choose_hardware(name: str | None, device_kind: str) -> HardwareSpec:
    """Return the description that was named, else that of the devices; raises ConfigError."""
    known = ", ".join(PRESETS)
    if name is not None:
        if name not in PRESETS:
            raise ConfigError(f"--hardware {name} is unknown; known: {known}")
        return PRESETS[name]
    preset = preset_for(device_kind)
    if preset is None:
        raise ConfigError(
            f"nothing is known of the speed of {device_kind!r}; name what comes nearest with"
            f" --hardware ({known})"
        )
    return preset

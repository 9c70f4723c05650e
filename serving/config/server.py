"""What is a server told? One tree of all settings."""

from dataclasses import dataclass

from serving.config.batch import BatchConfig
from serving.config.costs import CostsConfig
from serving.config.endpoint import EndpointConfig
from serving.config.forecast import ForecastConfig
from serving.config.memory import MemoryConfig
from serving.config.mesh import MeshConfig
from serving.config.policy import PolicyConfig
from serving.config.schedule import ScheduleConfig
from serving.config.source import ModelSource


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Everything a server is told.

    `checkpoint` is the model directory, `name` what somebody called the model who may have named it
    by its id on a hub. Of a simulation both may be a known model's name.
    """

    checkpoint: str
    name: str
    model: ModelSource
    mesh: MeshConfig
    memory: MemoryConfig
    batch: BatchConfig
    schedule: ScheduleConfig
    policy: PolicyConfig
    forecast: ForecastConfig
    costs: CostsConfig
    endpoint: EndpointConfig

"""Which settings does a server have, and which values make sense? One tree, one default each.

Built once by the command line and passed down; nothing below reads flags, files or the environment.
Field metadata carries the help text; derived values are properties.
"""

from serving.config.batch import BatchConfig
from serving.config.costs import CostsConfig
from serving.config.endpoint import TOOL_CALL_PARSERS, EndpointConfig
from serving.config.forecast import ForecastConfig
from serving.config.memory import MemoryConfig
from serving.config.mesh import MeshConfig
from serving.config.policy import PolicyConfig
from serving.config.schedule import ScheduleConfig
from serving.config.server import ServerConfig
from serving.config.setting import ConfigError, require
from serving.config.source import KV_DTYPES, ModelSource

__all__ = [
    "KV_DTYPES",
    "TOOL_CALL_PARSERS",
    "BatchConfig",
    "ConfigError",
    "CostsConfig",
    "EndpointConfig",
    "ForecastConfig",
    "MemoryConfig",
    "MeshConfig",
    "ModelSource",
    "PolicyConfig",
    "ScheduleConfig",
    "ServerConfig",
    "require",
]

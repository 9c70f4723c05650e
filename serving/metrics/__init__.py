"""What does the server tell Prometheus? An observer beside the engine; see docs/metrics.md."""

from serving.metrics.engines import ServerLabels
from serving.metrics.observer import Metrics

__all__ = ["Metrics", "ServerLabels"]

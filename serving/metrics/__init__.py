"""What does the server tell of itself? Observers beside the engine: metrics and decisions."""

from serving.metrics.decision_log import DecisionLog
from serving.metrics.engines import ServerLabels
from serving.metrics.observer import Metrics

__all__ = ["DecisionLog", "Metrics", "ServerLabels"]

"""stub"""
from collections.abc import Sequence
from prometheus_client import CollectorRegistry, generate_latest
from serving.messages import LoadReport
class Metrics:
    """stub"""
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
    def on_request(self, n: int) -> None:
        """stub"""
    def on_reports(self, reports: Sequence[LoadReport]) -> None:
        """stub"""
    def scrape(self) -> bytes:
        """stub"""
        return generate_latest(self.registry)

"""What does the server tell Prometheus? An observer beside the engine; see docs/metrics.md."""

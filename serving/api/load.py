"""How busy is the server? The ORCA header that load balancers ask for with a request.

Knows nothing of the request it goes out with.
"""

from collections.abc import Mapping, Sequence

from pydantic_core import to_json

from serving.messages import LoadReport

ASKED = "endpoint-load-metrics-format"
ANSWERED = "endpoint-load-metrics"


def load_headers(headers: Mapping[str, str], reports: Sequence[LoadReport]) -> dict[str, str]:
    """Return the response header in the format asked for; nothing for another or none."""
    form = headers.get(ASKED, "").upper()
    if form not in ("TEXT", "JSON"):
        return {}
    used = sum(report.pages_used for report in reports)
    pages = used + sum(report.pages_cached + report.pages_free for report in reports)
    named = {
        "kv_cache_usage_perc": used / pages if pages else 0.0,
        "num_requests_running": float(sum(report.running for report in reports)),
        "num_requests_waiting": float(sum(report.waiting for report in reports)),
    }
    if form == "JSON":
        return {ANSWERED: f"JSON {to_json({'named_metrics': named}).decode()}"}
    pairs = ", ".join(f"named_metrics.{name}={value}" for name, value in named.items())
    return {ANSWERED: f"TEXT {pairs}"}

"""Which routing policies are there? By the name that server and simulator know them by."""

from collections.abc import Mapping
from types import MappingProxyType

from serving.policy.baselines.ampd import ampd
from serving.policy.baselines.fixed import local, pd_delta, pd_full, replicas
from serving.policy.baselines.ppd import ppd
from serving.policy.baselines.threshold import threshold
from serving.policy.foretoken import foretoken
from serving.policy.route import RoutePolicy, RouteReason

ROUTE_POLICIES: Mapping[str, RoutePolicy] = MappingProxyType(
    {
        "foretoken": foretoken,
        "replicas": replicas,
        "pd-full": pd_full,
        "pd-delta": pd_delta,
        "local": local,
        "ppd": ppd,
        "threshold": threshold,
        "ampd": ampd,
    }
)

ALONE = frozenset({"replicas"})
"""Those that ask no prefill worker, ever."""
SPLIT = frozenset(ROUTE_POLICIES) - ALONE - {"foretoken"}
"""Those that have nobody to choose from without prefill workers: then each of them is `replicas`.
"""

ROUTE_REASONS: tuple[str, ...] = tuple(reason.value for reason in RouteReason)
"""Every reason that a decision of any policy may carry."""

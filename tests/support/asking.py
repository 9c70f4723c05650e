"""How does a test ask foretoken for a route, and say where it went?"""

from serving.policy.foretoken import foretoken
from serving.policy.route import LOCAL, Local, Remote, RouteConfig, RouteContext
from serving.policy.views import OwnerView, PrefillView, TurnView
from tests.support.fake_costs import LinearCosts

A_SECOND_A_TOKEN = LinearCosts(base_s=1.0, new_s=1.0)


def context(costs: LinearCosts = A_SECOND_A_TOKEN, **config) -> RouteContext:
    return RouteContext(costs, RouteConfig(min_chunk_len=1, **config), None)


def ask(task: TurnView, home: OwnerView, *workers: PrefillView, costs=A_SECOND_A_TOKEN, **config):
    return foretoken(task, home, workers, context(costs, **config))


def went(decision: Local | Remote) -> tuple[str, str | None, str]:
    """Where, with which history, and why."""
    if isinstance(decision, Local):
        return LOCAL, None, decision.reason
    return decision.worker, decision.history, decision.reason

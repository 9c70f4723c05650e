"""How does an operator see the workers and change what they do? Only where that was enabled.

Knows nothing of how a worker drains: the engine says whether a change can be made.
"""

from typing import Any

from fastapi import APIRouter
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from serving.api.engine import Engine
from serving.api.errors import ApiError, bad_request
from serving.api.schemas import RoleBody, parse
from serving.messages import WorkerId, WorkerStatus


def admin(engine: Engine) -> APIRouter:
    """Return the routes about workers."""
    router = APIRouter(prefix="/admin")

    @router.get("/workers")
    async def workers() -> Response:
        """List the workers, with what they do and how much of it they have."""
        return _json({"workers": [_described(status) for status in engine.workers()]})

    @router.post("/workers/{name}/role")
    async def change_role(name: str, request: Request) -> Response:
        """Let a worker finish or hand over what it has, and then take another role, or none.

        Answers at once, with the worker as it is now: `leaving` until it has drained.
        """
        role, worker = parse(RoleBody, await request.body()).role, WorkerId(name)
        known = {status.worker for status in engine.workers()}
        problem = engine.set_role(worker, role)
        if problem is not None:
            if worker not in known:
                raise ApiError(404, problem, param="worker", code="worker_not_found")
            raise bad_request(problem, "role")
        return _json(next(_described(s) for s in engine.workers() if s.worker == worker))

    return router


def _described(status: WorkerStatus) -> dict[str, Any]:
    return {
        "id": status.worker,
        "role": status.role,
        "leaving": status.leaving,
        "next_role": status.next_role,
        "load": {"turns": status.turns, "tokens": status.tokens, "capacity": status.capacity},
    }


def _json(value: Any) -> Response:
    return Response(to_json(value), media_type="application/json")

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.messages import Role, WorkerId
from serving.policy.roles import (
    ROLES_POLICIES,
    RoleChange,
    RolesConfig,
    RolesView,
    WorkerRoleView,
    none,
    queue,
)

CONFIG = RolesConfig(wait_high=0.5, wait_low=0.1, load_high=0.8, load_low=0.5, min_dwell_s=60.0)


def prefill(name, wait_s, **changes):
    worker = WorkerRoleView(WorkerId(name), Role.PREFILL, wait_s, 0.0, 100.0, False)
    return replace(worker, **changes)


def decode(name, load, **changes):
    worker = WorkerRoleView(WorkerId(name), Role.DECODE, 0.0, load, 100.0, False)
    return replace(worker, **changes)


def changes(*workers, ttft_s: float | None = 1.0):
    return queue(RolesView(workers, ttft_s), CONFIG)


WAITING = (prefill("p0", 0.6), decode("d0", 0.4), decode("d1", 0.05))
FULL = (prefill("p0", 0.05), prefill("p1", 0.0), decode("d0", 0.9))


def test_a_long_wait_turns_the_least_loaded_decode_worker_to_prefill():
    assert changes(*WAITING) == (RoleChange(WorkerId("d1"), Role.PREFILL, "prefill_waits"),)


def test_a_full_decode_side_turns_the_idlest_prefill_worker_back():
    assert changes(*FULL) == (RoleChange(WorkerId("p1"), Role.DECODE, "decode_full"),)


@pytest.mark.parametrize(
    "workers",
    [
        (prefill("p0", 0.4), *WAITING[1:]),
        (*WAITING, prefill("p1", 0.0)),
        (WAITING[0], decode("d0", 0.4), decode("d1", 0.2)),
        WAITING[:2],
        (*WAITING[:2], decode("d1", 0.05, since_change_s=59.0)),
        (*WAITING[:2], decode("d1", 0.05, draining=True)),
        (WAITING[0], decode("d0", 0.2, role=Role.BOTH, prefill_wait_s=0.6), prefill("p1", 0.7)),
    ],
    ids=["short_wait", "a_free_one", "decode_busy", "last", "dwell", "draining", "both"],
)
def test_no_decode_worker_is_turned(workers):
    assert changes(*workers) == ()


@pytest.mark.parametrize(
    "workers",
    [
        (*FULL[:2], decode("d0", 0.8)),
        (prefill("p0", 0.1), prefill("p1", 0.05), FULL[2]),
        FULL[1:],
        (*FULL[:2], decode("d0", 0.9, since_change_s=0.0)),
    ],
    ids=["not_full", "prefill_busy", "last", "dwell"],
)
def test_no_prefill_worker_is_turned(workers):
    assert changes(*workers) == ()


def test_without_a_target_no_wait_is_long():
    assert changes(*WAITING, ttft_s=None) == ()


def test_ties_go_to_the_smaller_id_in_any_order():
    level = (prefill("p0", 0.6), decode("d1", 0.1), decode("d0", 0.1))
    assert changes(*level)[0].worker == changes(*level[::-1])[0].worker == "d0"


def test_none_changes_nothing_and_is_known_by_name():
    assert none(RolesView(WAITING, 1.0), CONFIG) == ()
    assert set(ROLES_POLICIES) == {"none", "queue"}


@pytest.mark.parametrize(
    "wrong", [{"wait_low": 0.5}, {"load_low": 0.9}, {"min_dwell_s": -1}, {"wait_low": -1}], ids=str
)
def test_marks_out_of_order_are_refused(wrong):
    with pytest.raises(ValueError, match=r"low mark|negative"):
        RolesConfig(**wrong)


def drawn(index, role, wait_s, load):
    idle = role is Role.DECODE
    return WorkerRoleView(
        WorkerId(f"w{index}"),
        role,
        0.0 if idle else wait_s,
        0.0 if role is Role.PREFILL else load,
        100.0,
        False,
    )


WORKERS = st.lists(
    st.tuples(st.sampled_from(Role), st.floats(0, 2), st.floats(0, 1)), max_size=6
).map(lambda workers: tuple(drawn(i, *worker) for i, worker in enumerate(workers)))


def roles_after(workers, found):
    new = {change.worker: change.role for change in found}
    return [new.get(w.worker, w.role) for w in workers]


@given(WORKERS)
def test_at_least_one_of_each_kind_stays(workers):
    after = roles_after(workers, changes(*workers))
    for missing in (Role.PREFILL, Role.DECODE):
        before = [w.role for w in workers]
        assert any(r is not missing for r in after) or not any(r is not missing for r in before)


@given(WORKERS)
def test_a_change_is_not_undone_by_the_load_that_it_shifts(workers):
    """The turned worker's work is shared out evenly on its side; nothing else happens."""
    found = changes(*workers)
    if found:
        turned = next(w for w in workers if w.worker == found[0].worker)
        left = [w for w in workers if w is not turned and w.role is not found[0].role]
        share = turned.decode_load / len(left)
        wait_s = turned.prefill_wait_s / len(left)
        after = [
            replace(w, decode_load=w.decode_load + share, prefill_wait_s=w.prefill_wait_s + wait_s)
            if w in left
            else w
            for w in workers
            if w is not turned
        ]
        after.append(drawn(int(turned.worker[1:]), found[0].role, 0.0, 0.0))
        assert changes(*after) == ()

"""How full would a worker's pages be with one more sequence on it?"""

from serving.policy.views import OwnerView


def page_share(owner: OwnerView, total_len: int) -> float:
    """Return the share of the owner's pages in use once a sequence of `total_len` tokens has all.

    Above 1 it does not fit. The pages that an idle session left behind are available, its own too,
    so what it has cached is not deducted from its need.
    """
    needed = -(-total_len // owner.page_size)
    return (owner.pages_total - owner.pages_available + needed) / owner.pages_total

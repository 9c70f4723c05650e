"""What are flags of other servers called here? For people who paste them, and are told.

Those of vLLM and SGLang that mean something here under another name. What has the same name, or is
taken as an alias, is not here. Knows nothing of what the flags mean.
"""

from collections.abc import Collection, Iterable

_TP = "called --prefill-tp and --decode-tp"
_SPLIT = "called --prefill-workers and --decode-workers"
_CHECKPOINT = "the argument CHECKPOINT"
_CACHE = "the variable HF_HUB_CACHE"
_LOG = "called --access-log or --no-access-log"
_ON = "always on"
_CACHED = "no choice: prefixes are always cached"

PEER_FLAGS: dict[str, str] = {
    "--attention-backend": "called --attention",
    "--chunked-prefill-size": "called --max-num-batched-tokens",
    "--context-length": "called --max-model-len",
    "--data-parallel-size": "called --decode-workers",
    "--disable-log-requests": _LOG,
    "--disable-radix-cache": _CACHED,
    "--disable-uvicorn-access-log": _LOG,
    "--disaggregation-mode": _SPLIT,
    "--download-dir": _CACHE,
    "--dp": "called --decode-workers",
    "--dp-size": "called --decode-workers",
    "--enable-cache-report": _ON,
    "--enable-log-requests": _LOG,
    "--enable-metrics": _ON,
    "--hf-token": "the variable HF_TOKEN",
    "--hicache-size": "called --host-kv-gib",
    "--kv-offloading-size": "called --host-kv-gib",
    "--kv-transfer-config": _SPLIT,
    "--load-balance-method": "called --place-policy",
    "--log-level": "called --uvicorn-log-level",
    "--log-requests": _LOG,
    "--max-num-partial-prefills": "called --max-prefill-rows",
    "--max-prefill-tokens": "called --max-num-batched-tokens",
    "--max-queued-requests": "called --max-queue-size",
    "--max-running-requests": "called --max-num-seqs",
    "--max-total-tokens": "called --kv-pages, in pages of --page-size tokens,",
    "--mem-fraction-static": "called --memory-fraction",
    "--model": _CHECKPOINT,
    "--model-path": _CHECKPOINT,
    "--no-enable-chunked-prefill": "no choice: prompts are always prefilled in chunks",
    "--no-enable-log-requests": _LOG,
    "--no-enable-prefix-caching": _CACHED,
    "--quantization": "called --quantize",
    "--random-seed": "called --seed",
    "--schedule-policy": "called --order-policy",
    "--scheduling-policy": "called --order-policy",
    "--swap-space": "called --host-kv-gib",
    "--tensor-parallel-size": _TP,
    "--tp": _TP,
    "--tp-size": _TP,
    "-dp": "called --decode-workers",
    "-tp": _TP,
}
"""By a flag of theirs, what it is here."""


def peer_flag(typed: Iterable[str], known: Collection[str]) -> str | None:
    """Say in one line what the first flag of another server among the typed ones is here.

    Nothing if there is none, or if the command does not know all flags that the line would name.
    """
    for argument in typed:
        flag = argument.partition("=")[0].replace("_", "-")
        if flag in PEER_FLAGS and flag not in known and named(flag) <= set(known):
            return f"{flag} is {PEER_FLAGS[flag]} here"
    return None


def named(flag: str) -> set[str]:
    """Return the flags of ours in what a flag of theirs is here."""
    words = PEER_FLAGS[flag].replace(",", "").split()
    return {word for word in words if word.startswith("--")}

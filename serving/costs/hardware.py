"""How fast is a device, and which share of that does a step reach? Descriptions as data.

Peaks are the makers' figures for bfloat16 (float32 on a CPU) without sparsity; efficiencies say
which share of a peak a part of a step was seen to reach. Sources:

    H200, H100    peaks: NVIDIA data sheets (SXM). eta_w, eta_kv: our least-squares fit to decode
                  steps of Llama-3.1-8B put together from the per-operation tables of NVIDIA's
                  aiconfigurator (vLLM 0.24) and 10 us a layer: 19 and 8 steps of 1 to 256 rows,
                  mean error 3 %, worst 8 %. eta_f, eta_a, layer_s: its prefill tables, likewise
    A100          peaks: NVIDIA data sheet (SXM, 80 GB). eta_w: the share of bandwidth that vLLM
                  0.23 is reported to reach with one row; the rest is the H100's, unchecked
    TPU v5e, v6e  peaks: Google Cloud's system architecture pages. eta_kv, eta_a: the 86 % and 73 %
                  that ragged paged attention reports (arXiv 2604.15464, on TPU7x); the rest is the
                  H100's, unchecked
    cpu           ours: a few cores, set so that the decode steps of the demo model that LOG.md
                  lists come out about right; a stand-in until the machine is profiled

Memory is that of the same sheets and pages; the CPU's is a guess at what a process may take.
Interconnects are one direction of NVLink (half the data sheet's total), or the chip's ICI total.
Their latencies, and the CPU's, are our guesses.
"""

import re
from dataclasses import dataclass

from serving.costs.costs import Link


@dataclass(frozen=True, slots=True)
class HardwareSpec:
    """One device. Peaks, then the shares of them that are reached, then fixed times.

    `memory_bytes`: all of its memory. `eta_w`: share of `bytes_per_s` when weights are read;
    `eta_kv`: when keys and values are; `eta_f`: share of `flops_per_s` in matmuls; `eta_a`: in
    attention. `layer_s`: what a layer takes beside these (norms, rope, launches); `host_s`: what a
    step does. `error` is the relative standard deviation to expect of a prediction. `device_kinds`:
    how the device calls itself contains one of these as whole words, in lower case.
    """

    name: str
    device_kinds: tuple[str, ...]
    flops_per_s: float
    bytes_per_s: float
    memory_bytes: float
    eta_w: float
    eta_kv: float
    eta_f: float
    eta_a: float
    layer_s: float
    host_s: float
    interconnect: Link
    error: float


_H200 = HardwareSpec(
    name="h200",
    device_kinds=("h200",),
    flops_per_s=989e12,
    bytes_per_s=4.8e12,
    memory_bytes=141e9,
    eta_w=0.67,
    eta_kv=0.82,
    eta_f=0.75,
    eta_a=0.61,
    layer_s=11e-6,
    host_s=0.0,
    interconnect=Link(latency_s=10e-6, bytes_per_s=450e9),
    error=0.1,
)
_H100 = HardwareSpec(
    name="h100",
    device_kinds=("h100",),
    flops_per_s=989e12,
    bytes_per_s=3.35e12,
    memory_bytes=80e9,
    eta_w=0.73,
    eta_kv=0.87,
    eta_f=0.75,
    eta_a=0.61,
    layer_s=11e-6,
    host_s=0.0,
    interconnect=Link(latency_s=10e-6, bytes_per_s=450e9),
    error=0.1,
)
_A100 = HardwareSpec(
    name="a100",
    device_kinds=("a100",),
    flops_per_s=312e12,
    bytes_per_s=2.039e12,
    memory_bytes=80e9,
    eta_w=0.77,
    eta_kv=0.87,
    eta_f=0.75,
    eta_a=0.61,
    layer_s=11e-6,
    host_s=0.0,
    interconnect=Link(latency_s=10e-6, bytes_per_s=300e9),
    error=0.2,
)
_TPU_V5E = HardwareSpec(
    name="tpu-v5e",
    device_kinds=("tpu v5 lite", "tpu v5e"),
    flops_per_s=197e12,
    bytes_per_s=0.82e12,
    memory_bytes=16 * 2**30,
    eta_w=0.73,
    eta_kv=0.86,
    eta_f=0.75,
    eta_a=0.73,
    layer_s=11e-6,
    host_s=0.0,
    interconnect=Link(latency_s=10e-6, bytes_per_s=200e9),
    error=0.3,
)
_TPU_V6E = HardwareSpec(
    name="tpu-v6e",
    device_kinds=("tpu v6 lite", "tpu v6e"),
    flops_per_s=918e12,
    bytes_per_s=1.64e12,
    memory_bytes=32 * 2**30,
    eta_w=0.73,
    eta_kv=0.86,
    eta_f=0.75,
    eta_a=0.73,
    layer_s=11e-6,
    host_s=0.0,
    interconnect=Link(latency_s=10e-6, bytes_per_s=448e9),
    error=0.3,
)
_CPU = HardwareSpec(
    name="cpu",
    device_kinds=("cpu",),
    flops_per_s=100e9,
    bytes_per_s=20e9,
    memory_bytes=8 * 2**30,
    eta_w=0.8,
    eta_kv=0.42,
    eta_f=0.5,
    eta_a=0.3,
    layer_s=0.15e-3,
    host_s=0.2e-3,
    interconnect=Link(latency_s=0.1e-3, bytes_per_s=5e9),
    error=0.5,
)

PRESETS = {spec.name: spec for spec in (_H200, _H100, _A100, _TPU_V5E, _TPU_V6E, _CPU)}
"""Every description, by name."""


def preset_for(device_kind: str) -> HardwareSpec | None:
    """Return the description of a device by what it calls itself; None if there is none."""
    kind = device_kind.lower()
    for spec in PRESETS.values():
        # An RTX A1000 is no A100, and a GH200 no H200.
        if any(re.search(rf"\b{part}\b", kind) for part in spec.device_kinds):
            return spec
    return None

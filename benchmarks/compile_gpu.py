"""What would XLA run on a GPU that is not here? Compiles whole steps for it, and looks at them.

`python -m benchmarks.compile_gpu --out FILE` needs JAX's CUDA plugin (`pip install -e .[gpu]`) but
no GPU: kernels are compiled down to machine code for the device described below. It shows that they
compile, whether they stand in command buffers, where the host has to wait for the device within a
step, whether anything as large as the page pool is copied, and how many matmuls XLA would tune. It
measures no time, and XLA chooses its matmuls untuned, so that those differ on a device.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click

from benchmarks.machine import describe_code
from serving.engine.buckets import least_rows

KINDS = {
    # Name, memory in bytes and bytes per second of NVIDIA's data sheets; the rest is Hopper's.
    "h100": ("NVIDIA H100 80GB HBM3", 80 * 10**9, 3.35e12),
    "h200": ("NVIDIA H200", 141 * 10**9, 4.8e12),
}
HOPPER = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "threads_per_core_limit": 2048,
    "shared_memory_per_block": 48 * 1024,
    "shared_memory_per_block_optin": 227 * 1024,
    "shared_memory_per_core": 228 * 1024,
    "registers_per_block_limit": 65536,
    "registers_per_core_limit": 65536,
    "core_count": 132,
    "fpus_per_core": 128,
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 65535,
    "block_dim_limit_z": 65535,
    "l2_cache_size": 50 * 2**20,
    "clock_rate_ghz": 1.98,
}
CUDA_VERSIONS = ("driver_version", "runtime_version", "compile_time_toolkit_version")
"""Without them XLA takes CUDA for too old to have conditions in command buffers."""
PAGES, PAGE_SIZE, CHUNKS = 2**15, 16, 8
CONTEXT = 32768
KERNELS = ("write_kv", "attend", "combine")


class Size(NamedTuple):
    """One step: decode rows, tokens of prompts, layers of the model, weights and pages."""

    rows: int
    tokens: int
    layers: int
    quantize: str | None = None
    kv_dtype: str | None = None


def target(kind: str) -> str:
    """Describe a device to XLA, in its text format."""
    name, memory, bandwidth = KINDS[kind]
    fields = {**HOPPER, "device_memory_size": memory, "memory_bandwidth": int(bandwidth)}
    lines = [f"  {field}: {value}" for field, value in fields.items()]
    lines.append("  cuda_compute_capability { major: 9 minor: 0 }")
    lines += [f'  {which}: "13.0.0"' for which in CUDA_VERSIONS]
    return "\n".join(
        [
            "gpu_device_info {",
            *lines,
            "}",
            'platform_name: "CUDA"',
            "dnn_version_info { major: 9 minor: 10 }",
            f'device_description_str: "{name}"',
        ]
    )


def compile_step(kind: str, size: Size, dump: Path) -> dict[str, Any]:
    """Compile one step of Llama-3.1-8B's shape; XLA's dumps must go to `dump`."""
    # Imported late: XLA reads its flags when JAX starts.
    import jax
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import Mesh

    from model.attention.gpu import Gpu
    from model.config import load_config
    from model.sharding import DECODE, TENSOR
    from serving.engine.buckets import Bucket, Buckets
    from serving.engine.programs import ExecutorSizes, Programs, Site

    jax.config.update("jax_platforms", "cpu")  # everything that is really run
    topology = topologies.get_topology_desc(
        kind, "cuda", target_config=target(kind), topology="1x1x1"
    )
    shape = Path(__file__).parent / "shapes" / "llama-3.1-8b"
    llama = load_config(shape, quantize=size.quantize, kv_dtype=size.kv_dtype)
    config = replace(llama, num_layers=size.layers, max_position=CONTEXT)
    # As many bytes in either: some numbers of one-byte pages cannot be counted.
    pages = PAGES * (1 if size.kv_dtype is None else 2)
    sizes = ExecutorSizes(
        num_pages=pages,
        page_size=PAGE_SIZE,
        max_model_len=CONTEXT,
        max_rows=max(1, size.rows),
        max_chunk_tokens=max(1, size.tokens),
        max_chunk_rows=CHUNKS,
    )
    mesh = Mesh(np.array(topology.devices), (TENSOR,))
    site = Site(config, mesh, DECODE, sizes, Gpu(interpret=False))
    bucket = Bucket(size.rows, size.tokens, CHUNKS if size.tokens else 0)
    programs = Programs(site, Buckets((bucket,), ()), constrains=False, offloads=False)
    programs.compile(lambda done: None)
    compiled = programs.step[bucket]
    memory = compiled.memory_analysis()
    text = compiled.as_text() or ""
    pool = f"[{','.join(map(str, site.pool_shape))}]"
    copies = re.findall(rf"= \w+{re.escape(pool)}\S* copy\(", text)
    return {
        **size._asdict(),
        "device": KINDS[kind][0],
        "jax": jax.__version__,
        "pool_bytes": pages * site.page_bytes,
        "temporary_bytes": None if memory is None else memory.temp_size_in_bytes,
        "copies_of_the_pool": len(copies),
        "waits_of_the_host": waits_in(dump),
        "matmuls_to_tune": len(matmuls_in(text)),
        "kernels": kernels_in(dump),
    }


def steps_in(dump: Path) -> Iterator[tuple[str, bool]]:
    """Yield the lines of what the step dumped last does, and whether each is in a buffer."""
    # What is compiled beside the step, sampling's slots for example, has a name of its own.
    newest = max(
        dump.glob("*unnamed*thunk_sequence_after_thunk_passes.txt"),
        key=lambda f: f.stat().st_mtime,
    )
    buffer = None  # how far the innermost command buffer is indented
    for line in newest.read_text().splitlines():
        indent = len(line) - len(line.lstrip())
        if buffer is not None and indent <= buffer:
            buffer = None
        yield line, buffer is not None
        if buffer is None and "kCommandBuffer" in line:
            buffer = indent


def waits_in(dump: Path) -> int:
    """Count the conditions and loops outside of command buffers: the host reads what decides.

    Not those within others.
    """
    decided = re.compile(r"\d+: (kConditional|kWhile)")
    return sum(decided.match(line) is not None for line, _ in steps_in(dump))


def matmuls_in(text: str) -> set[str]:
    """Return the different computations of a compiled program that hold a matmul."""
    bodies = re.findall(r"^%gemm_fusion\S* \(.*?^}", text, re.M | re.S)
    return {re.sub(r"%[\w.\-]+|[\w.\-]+: |metadata={[^}]*}", "", body) for body in bodies}


def kernels_in(dump: Path) -> list[dict[str, Any]]:
    """List the attention's kernels of the step dumped last, and whether each is in a buffer."""
    found: list[dict[str, Any]] = []
    for line, inside in steps_in(dump):
        kernel = re.search(
            rf"\] (({'|'.join(KERNELS)})\w*) grid: \[(.*?)\].*shared_memory: (\d+)", line
        )
        if kernel is not None:
            name, _, grid, shared = kernel.groups()
            found.append(
                {
                    "name": name,
                    "grid": [int(n) for n in grid.split(",")],
                    "shared_bytes": int(shared),
                    "in_command_buffer": inside,
                }
            )
    return found


@click.command()
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--device", "kind", type=click.Choice(sorted(KINDS)), default="h100")
@click.option("--layers", default=4, show_default=True, help="Of 32; all are the same.")
def main(out: Path, kind: str, layers: int) -> None:
    """Compile decode-only and mixed steps; write what was found to a JSON file."""
    shapes = [(least_rows("gpu"), 0), (32, 0), (32, 512), (0, 2048)]
    steps = [Size(rows, tokens, layers) for rows, tokens in shapes]
    steps += [Size(32, 0, layers, "int8"), Size(32, 512, layers, "fp8", "float8_e4m3fn")]
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--xla_gpu_autotune_level=0", f"--xla_dump_to={folder}"]
        os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags])
        results = [compile_step(kind, size, Path(folder)) for size in steps]
    code = describe_code(Path(__file__).parents[1])
    report = {"code": code, "compiled_not_measured": results}
    out.write_text(json.dumps(report, indent=2) + "\n")
    for one in results:
        buffered = sum(kernel["in_command_buffer"] for kernel in one["kernels"])
        print(
            f"{one['rows']} rows + {one['tokens']} tokens: {buffered} of {len(one['kernels'])} "
            f"kernels in command buffers, {one['copies_of_the_pool']} copies of the pool, "
            f"{one['temporary_bytes'] / 2**20:.0f} MiB beside it, the host waits"
            f" {one['waits_of_the_host']} times, {one['matmuls_to_tune']} matmuls to tune"
        )


if __name__ == "__main__":
    main()

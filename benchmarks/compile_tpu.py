"""What would XLA run on a TPU that is not here? Compiles whole steps for it, and looks at them.

`python -m benchmarks.compile_tpu --out FILE` needs libtpu (`pip install -e .[tpu]`) but no TPU:
steps of Llama-3.1-8B's shape, of some of its layers, are compiled down to machine code for TPUs
that are only described. It shows that the attention kernel compiles for them, and how much memory a
step takes beside weights and pool: were the pool or a layer's weights copied, it would show there.
It measures no time.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from benchmarks.machine import describe_code
from model.attention.tpu import RAGGED
from model.config import load_config
from model.sharding import DECODE, TENSOR
from serving.engine.buckets import Bucket, Buckets
from serving.engine.programs import ExecutorSizes, Programs, Site

KINDS = {"v5e": "v5e:2x2", "v6e": "v6e:2x2"}  # the smallest that libtpu describes
POOL_TOKENS, CHUNKS = 2**17, 8
LLAMA_8B = load_config(Path(__file__).parent / "shapes" / "llama-3.1-8b")


class Case(NamedTuple):
    """One step: decode rows, tokens of prompts, page size, longest context, weights, devices."""

    rows: int
    tokens: int
    page_size: int
    context: int
    quantize: str | None
    devices: int


CASES = (
    Case(64, 0, 128, 8192, None, 1),
    Case(64, 0, 128, 8192, "int8", 1),
    Case(64, 0, 128, 8192, "fp8", 1),
    Case(64, 256, 128, 8192, "int8", 1),
    Case(0, 2048, 128, 8192, None, 4),
    Case(64, 0, 16, 131072, "int8", 1),
)


def compile_step(kind: str, case: Case, layers: int) -> dict[str, Any]:
    """Compile one step; raises what XLA raises for what cannot be compiled."""
    topology = topologies.get_topology_desc(platform="tpu", topology_name=KINDS[kind])
    config = replace(LLAMA_8B, num_layers=layers, quantize=case.quantize)
    sizes = ExecutorSizes(
        num_pages=POOL_TOKENS // case.page_size,
        page_size=case.page_size,
        max_model_len=case.context,
        max_rows=max(1, case.rows),
        max_chunk_tokens=max(1, case.tokens),
        max_chunk_rows=CHUNKS,
    )
    mesh = Mesh(np.array(topology.devices[: case.devices]), (TENSOR,))
    site = Site(config, mesh, DECODE, sizes, RAGGED)
    bucket = Bucket(case.rows, case.tokens, CHUNKS if case.tokens else 0)
    programs = Programs(site, Buckets((bucket,), ()), constrains=False, offloads=False)
    programs.compile(lambda done: None)
    memory = programs.step[bucket].memory_analysis()
    assert memory is not None, "libtpu tells"
    return {
        "device": topology.devices[0].device_kind,
        **case._asdict(),
        "quantize": case.quantize or "none",
        "layers": layers,
        "pool_bytes": sizes.num_pages * site.page_bytes // case.devices,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
    }


def text_of(found: list[dict[str, Any]]) -> str:
    """Return the steps as a Markdown table."""
    lines = [
        "| device | rows + tokens | page, context | quantize | devices | pool, MiB | beside, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found:
        lines.append(
            f"| {one['device']} | {one['rows']} + {one['tokens']} | {one['page_size']},"
            f" {one['context']} | {one['quantize']} | {one['devices']}"
            f" | {one['pool_bytes'] / 2**20:.0f} | {one['temporary_bytes'] / 2**20:.0f} |"
        )
    return "\n".join(lines)


@click.command()
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--layers", default=2, show_default=True, help="Of 32; all run the same loop.")
def main(out: Path, layers: int) -> None:
    """Compile decode-only, mixed and prefill steps; write what was found to a JSON file."""
    jax.config.update("jax_platforms", "cpu")  # everything that is really run
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # libtpu asks the network about TPUs else
    found = [compile_step(kind, case, layers) for kind in KINDS for case in CASES]
    report = {
        "code": describe_code(Path.cwd()),
        "jax": jax.__version__,
        "compiled_not_measured": found,
    }
    out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    click.echo(text_of(found))


if __name__ == "__main__":
    main()

"""Which times does PPD's published sweep hold for one pair of configurations? CSV to a PPD table.

`python -m benchmarks.ppd_table SWEEP.csv --pair 2P_2D:2P_2pD --out table.json`. The pair names the
configuration whose second turns go through a prefill worker, and the one whose owners prefill them.

The sweep counts conversations of two turns per second; the table counts turns. Only rows of which
every request was answered are used, so a cell without one on both sides is missing from the table,
and `ppd` decides such a cell as PPD's code does: local.
"""

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import click

from serving.policy.ppd_table import Cell, CellKey, PpdTable

TURNS_PER_CONVERSATION = 2
STATISTICS = ("avg", "p50", "p99")

Row = Mapping[str, str]


def build(rows: Iterable[Row], remote: str, local: str, statistic: str) -> PpdTable:
    """Make the table of two configurations, out of one statistic of TTFT and TPOT.

    PPD's own table holds means (`avg`). Raises ValueError if a configuration has no usable row.
    """
    sides: dict[str, dict[CellKey, Row]] = {remote: {}, local: {}}
    for row in rows:
        if row["config"] in sides and float(row["success_rate"]) == 100:
            rate = TURNS_PER_CONVERSATION * float(row["qps"])
            sides[row["config"]][CellKey(row["turn1"], row["turn2"], rate)] = row
    for name, found in sides.items():
        if not found:
            raise ValueError(f"no usable row of configuration {name}")
    return PpdTable.of(
        {
            key: Cell(
                ttft_remote_s=_seconds(sides[remote][key], "ttft", statistic),
                ttft_local_s=_seconds(sides[local][key], "ttft", statistic),
                tpot_remote_s=_seconds(sides[remote][key], "tpot", statistic),
                tpot_local_s=_seconds(sides[local][key], "tpot", statistic),
            )
            for key in sides[remote].keys() & sides[local].keys()
        }
    )


def _seconds(row: Row, metric: str, statistic: str) -> float:
    return float(row[f"turn2_{metric}_{statistic}_ms"]) / 1000


@click.command()
@click.argument("sweep", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--pair", required=True, help="REMOTE:LOCAL, two configurations of the sweep.")
@click.option(
    "--statistic",
    type=click.Choice(STATISTICS),
    default="avg",
    show_default=True,
    help="Of TTFT and TPOT. PPD's table holds means; the local path alone shows in p50.",
)
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path))
def main(sweep: Path, pair: str, statistic: str, out: Path) -> None:
    """Turn PPD's published SWEEP, a CSV file, into the table that `ppd` reads."""
    remote, _, local = pair.partition(":")
    try:
        with sweep.open(newline="") as file:
            table = build(csv.DictReader(file), remote, local, statistic)
    except KeyError as error:
        raise click.ClickException(f"{sweep}: not the sweep, it lacks a column {error}") from error
    except ValueError as error:
        raise click.ClickException(f"{sweep}: {error}") from error
    notes = {"source": sweep.name, "pair": pair, "statistic": statistic}
    out.write_text(json.dumps({**notes, **table.to_json()}, indent=1) + "\n")
    click.echo(f"{len(table.cells)} cells at {len(table.rates)} rates in {out}")


if __name__ == "__main__":
    main()

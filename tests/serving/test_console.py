"""Standard error that nobody takes: whatever is told there, the program goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.console import forgiving

ROOT = Path(__file__).parents[2]
TELL = """
import logging, sys, warnings
import click
from tqdm import tqdm
from serving.console import forgiving
sys.stderr = forgiving(2)
click.echo("ready", err=True)
with tqdm(total=2) as bar:
    bar.update(2)
logging.warning("careful")
warnings.warn("careful", stacklevel=1)
print("went on")
"""


def told(stderr: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", TELL],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        check=False,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_takes_nothing_and_breaks_nothing():
    with Path("/dev/full").open("wb") as full:
        done = told(full.fileno())
    assert (done.returncode, done.stdout) == (0, "went on\n")


def test_a_reader_that_is_gone_breaks_nothing():
    reads, writes = os.pipe()
    os.close(reads)
    done = told(writes)
    os.close(writes)
    assert (done.returncode, done.stdout) == (0, "went on\n")


def test_what_can_be_told_is_told_line_by_line():
    reads, writes = os.pipe()
    stream = forgiving(writes)
    stream.write("ready \N{SNOWMAN} \udc80\n")
    with open(reads, "rb", buffering=0) as reader:
        assert reader.read(100) == "ready \N{SNOWMAN} \\udc80\n".encode()
    stream.close()
    os.close(writes)


LOG = """
import logging, os, sys
from serving.console import Unhurried
log = logging.getLogger("lines")
log.setLevel(logging.INFO)
log.addHandler(Unhurried(2))
for number in range(int(sys.argv[1])):
    log.info("line %d %s", number, "x" * 100)
print("went on", flush=True)
"""


def logging_to(stderr: int, lines: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", LOG, str(lines)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True)


def test_lines_come_in_order_and_all_of_them_before_the_end():
    reads, writes = os.pipe()
    process = logging_to(writes, 2000)
    os.close(writes)
    with open(reads, encoding="utf-8") as reader:
        lines = reader.read().splitlines()
    assert process.communicate()[0] == "went on\n"
    assert process.returncode == 0
    assert [line.split()[:2] for line in lines] == [["line", str(n)] for n in range(2000)]


def test_a_reader_that_reads_nothing_stops_neither_the_program_nor_its_end():
    reads, writes = os.pipe()
    process = logging_to(writes, 20_000)  # more than a pipe takes, and than are kept
    assert process.communicate(timeout=60)[0] == "went on\n"
    assert process.returncode == 0
    os.close(writes)
    os.close(reads)

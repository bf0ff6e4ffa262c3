"""The microbenchmarks of bench/latency.cu: compiled by nvcc, run by the emulation, where nothing is timed."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch

from bench import latency, records
from tests.emulation import toolchain

needs_emulation = pytest.mark.skipif(bool(toolchain.why_unusable()), reason=toolchain.why_unusable())
SMALL = ("5", "1", "8", "64")
BARRIERS = ["__syncthreads", "cluster barrier", "grid barrier by a flag", "grid.sync"]
BARRIERS += ["grid barrier by a flag with relaxed polls", "grid barrier by a flag behind stores"]
EXCHANGES = ["cluster exchange", "cluster exchange by st.async", "grid exchange by epochs"]
LOADS = ["distributed shared memory load", "L2 load", "L2 tile by cp.async", "L2 tile by cp.async with blocks apart"]
LOADS += ["L2 tile in bulk"]
LOADS += [f"L2 tile in bulk by {blocks} blocks for each other" for blocks in (2, 4)]
PRODUCTS = ["mma m16n8k16 bf16", "mma m16n8k8 tf32"]


def program(**options):
    return toolchain.build_program("latency", [latency.SOURCE], **options)


@needs_emulation
@pytest.mark.parametrize("schedule", toolchain.SCHEDULES)
def test_every_kernel_ends_and_its_barriers_hold(schedule):
    done = toolchain.run(program(), *SMALL, schedule=schedule)
    assert done.returncode == 0, done.stdout


@needs_emulation
@pytest.mark.parametrize(("sanitize", "size"), [("address", ("2", "1", "4", "64")), ("thread", ("2", "1", "2", "64"))])
def test_sanitizers_find_nothing(sanitize, size):
    done = toolchain.run(program(sanitize=sanitize), *size, schedule="rand1")
    assert done.returncode == 0, done.stdout


# What becomes what where the mistake is chosen.
MISTAKES = {
    "cluster barrier": (
        "cluster.sync();\n    if (kCheck) expect(cluster",
        "if (!{chosen}) cluster.sync();\n    if (kCheck) expect(cluster",
    ),
    "distributed shared memory load": ("at = there[at].x", "at = there[{chosen} ? 0 : at].x"),
    "grid barrier by a flag": (
        "while ((kAcquirePolls ? ld_acquire(flag) : ld_relaxed(flag)) < arrivals) spin_pause();",
        "while (!{chosen} && (kAcquirePolls ? ld_acquire(flag) : ld_relaxed(flag)) < arrivals) spin_pause();",
    ),
    "L2 tile in bulk by 2 blocks for each other": (
        "multicast(here + k, tile + k",
        "multicast(here + k, tile + k + {chosen}",
    ),
    "grid exchange by epochs": (
        "for (; unit.low != epoch; unit",
        "for (; !{chosen} && unit.low != epoch; unit",
    ),
}


@pytest.fixture(scope="module")
def with_mistakes(tmp_path_factory):
    """One build with all of them, of which the environment chooses."""
    if reason := toolchain.why_unusable():
        pytest.skip(reason)
    text = latency.SOURCE.read_text()
    for number, (right, wrong) in enumerate(MISTAKES.values(), 1):
        assert text.count(right) == 1
        text = text.replace(right, wrong.format(chosen=f"planted({number})"))
    source = tmp_path_factory.mktemp("latency") / "latency.cu"
    source.write_text(f'#include "planted.h"\n{text}')
    return toolchain.build_program("latency-broken", [source])


@pytest.mark.parametrize("what", MISTAKES)
def test_a_kernel_without_its_barrier_or_its_work_is_found(what, with_mistakes, monkeypatch):
    monkeypatch.setenv(toolchain.PLANTED, str(1 + list(MISTAKES).index(what)))
    with pytest.raises(latency.WrongKernelError, match=f"exit status 1: FAIL {what}"):
        latency.measure(with_mistakes, 5, 1, 8, 64)


@needs_emulation
def test_latencies_are_read_and_written(tmp_path):
    found, left_out = latency.measure(program(), 7, 3, 4, 64)
    assert {row.what for row in found} == {*BARRIERS, *EXCHANGES, *LOADS, *PRODUCTS}
    assert left_out == []
    timed = [replace(row, median_ns=1.0) for row in found]
    assert len(latency.copies(timed)) == 3  # tiles of 8, 32 and 128 KiB
    assert [row.blocks for row in found if row.what in ("cluster barrier", "grid.sync")] == [2, 4, 2, 4]
    assert {(row.rounds, row.repeats) for row in found} == {(7, 3)}
    records.write(tmp_path / "latency.csv", {"device": "a GPU"}, found)
    assert records.read(tmp_path / "latency.csv", records.Latency) == ({"device": "a GPU"}, found)


def test_copies_are_compared_with_those_of_the_kernels_at_the_most_blocks():
    def row(what, blocks, median_ns, size=131072):
        return records.Latency(what, blocks, 256, size, 5000, 21, median_ns, 0.0, 0.0)

    found = [
        row("L2 load", 1, 150.0, size=16),
        row("L2 tile by cp.async", 132, 6553.6),
        row("L2 tile by cp.async", 1, 4096.0),
        row("L2 tile in bulk by 8 blocks for each other", 8, 1024.0),
        row("L2 tile in bulk by 8 blocks for each other", 128, 3276.8),
    ]
    assert latency.copies(found) == [
        "copies of 131072 bytes: by cp.async 20 bytes a ns for each of 132 blocks (1.00 times as fast); "
        "in bulk by 8 blocks for each other 40 bytes a ns for each of 128 blocks (2.00 times as fast)"
    ]


@needs_emulation
@pytest.mark.parametrize("arguments", [(), ("0", "1", "2", "32"), ("1", "1", "2", "33"), ("1", "1", "1", "32")])
def test_wrong_arguments_are_refused(arguments):
    done = toolchain.run(program(), *arguments)
    assert done.returncode == 1 and done.stdout.startswith("FAIL expected ROUNDS REPEATS MOST_BLOCKS THREADS")


@pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not on PATH")
@pytest.mark.parametrize("architecture", ["80", "90"])
def test_nvcc_compiles(architecture, tmp_path):
    assert latency.build(tmp_path / "latency", architecture).exists()


def test_without_nvcc_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="nvcc is not on PATH: install the CUDA toolkit"):
        latency.build(tmp_path / "latency", "90")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_one_line_says_so(tmp_path, capsys):
    assert latency.main(["--out", str(tmp_path / "latency.csv")]) == 2
    assert "bench.latency: torch sees no CUDA device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(tmp_path):
    assert latency.main(["--rounds", "100", "--repeats", "3", "--out", str(tmp_path / "latency.csv")]) == 0
    facts, found = records.read(tmp_path / "latency.csv", records.Latency)
    assert facts["device"] == torch.cuda.get_device_name(0)
    assert {row.what for row in found} >= {"__syncthreads", "grid barrier by a flag", "grid.sync"}

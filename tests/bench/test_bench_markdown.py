"""Timings as Markdown tables, and the line of facts below them."""

from __future__ import annotations

from bench import markdown
from bench.records import INFERENCE, MASKS
from tests.bench.samples import FACTS, TIMINGS, timing


def test_case_table_compares_with_nn_lstm_and_with_the_fastest_gemms() -> None:
    slower = timing(contender="GEMMs alone", backend="ATen", median_ms=5.0)
    assert markdown.case_table([*TIMINGS[:3], slower]).splitlines() == [
        "| milliseconds                       | forward | quartiles | x nn.LSTM | / GEMMs |",
        "|------------------------------------|--------:|----------:|----------:|--------:|",
        "| nn.LSTM                            |       2 |  1.5-3.25 |      1.00 |    1.60 |",
        "| rnndrop (cpu), both p=0.5 p_g=0.25 |     1.6 |  1.5-3.25 |      1.25 |    1.28 |",
        "| GEMMs alone (oneDNN)               |    1.25 |  1.5-3.25 |      1.60 |    1.00 |",
        "| GEMMs alone (ATen)                 |       5 |  1.5-3.25 |      0.40 |    4.00 |",
    ]


def test_grid_table_has_a_column_for_each_size() -> None:
    assert markdown.grid_table(TIMINGS).splitlines() == [
        "|                                    | T=32 B=128 I=300 H=128 | T=400 B=128 I=300 H=128 |",
        "|------------------------------------|-----------------------:|------------------------:|",
        "| nn.LSTM                            |               2 (1.00) |              314 (1.00) |",
        "| rnndrop (cpu), both p=0.5 p_g=0.25 |             1.6 (1.25) |                         |",
        "| GEMMs alone (oneDNN)               |            1.25 (1.60) |              286 (1.10) |",
    ]


def test_grid_table_tells_dtypes_and_threads_apart() -> None:
    by_threads = markdown.grid_table([timing(threads=1, median_ms=4.0), timing(threads=2)])
    assert by_threads.splitlines()[0] == "|         | 1 thread | 2 threads |"
    assert by_threads.splitlines()[2] == "| nn.LSTM | 4 (1.00) |  2 (1.00) |"
    by_size_and_dtype = markdown.grid_table([timing(dtype="bfloat16"), timing(T=1)])
    assert "T=32 B=128 I=300 H=128, bfloat16 | T=1 B=128 I=300 H=128, float32" in by_size_and_dtype


def test_case_table_leaves_empty_what_was_not_timed() -> None:
    masks = timing(contender="LSTM module", backend="cpu", dropout="Gal batch", p=0.5, phase=MASKS, median_ms=0.25)
    packed = timing(sequences="packed", phase=INFERENCE)
    padded = timing(sequences="padded", phase=INFERENCE, median_ms=4.0)
    assert markdown.case_table([masks, packed, padded]).splitlines() == [
        "| milliseconds                       | masks | quartiles | inference | quartiles | x nn.LSTM |",
        "|------------------------------------|------:|----------:|----------:|----------:|----------:|",
        "| LSTM module (cpu), Gal batch p=0.5 |  0.25 |  1.5-3.25 |           |           |           |",
        "| nn.LSTM packed                     |       |           |         2 |  1.5-3.25 |      1.00 |",
        "| nn.LSTM padded                     |       |           |         4 |  1.5-3.25 |      0.50 |",
    ]


def test_a_table_of_uncommitted_code_says_so() -> None:
    assert "commit 0123456789ab-dirty;" in markdown.provenance({**FACTS, "commit": "0123456789abcdef-dirty"})


def test_a_table_of_a_run_that_was_cut_short_says_so() -> None:
    assert markdown.provenance({**FACTS, "measured": "3 of 12 cases"}).endswith("`x`; cut short after 3 of 12 cases.")
    assert markdown.provenance({**FACTS, "measured": "12 of 12 cases"}) == markdown.provenance(FACTS)

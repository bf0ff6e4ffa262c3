"""h that a weight W_hr projects, on the CPU kernels against the reference: what its rows, columns and threads share."""

import pytest
import torch

from rnndrop_cuda import ops
from tests.problems import (
    INPUTS,
    OUTPUTS,
    assert_at_most_twice_plain_torchs_error,
    assert_equals_reference,
    cpu_layer,
    random_problem,
)

pytestmark = pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason=f"no CPU kernels: {ops.WHY_NOT_LOADED}")

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# T, B, I, H and P where threads share out the units, of which each has columns of h, or one alone; and where they share
# out the rows, in several blocks.
SHARED = [((7, 2, 21, 130), 67), ((4, 6, 20, 300), 20), ((5, 60, 21, 37), 12), ((2, 51, 9, 72), 35)]
# Rows so few that W_hr is read where it lies: in the forward and the backward, and in the backward alone.
FEW_ROWS = [((1, 1, 33, 90), 70), ((2, 3, 30, 160), 64), ((1, 4, 9, 290), 33), ((4, 8, 5, 96), 40)]
KINDS = ["none", "gal-batch", "gal-sample", "semeniuta-shared", "untied-batch", "all"]


def assert_is_right(problem):
    """As near to the reference as rounding explains; in 16 bits at most twice as far from it as plain torch is."""
    in_16_bits = problem.inputs["x"].dtype.itemsize == 2
    check = assert_at_most_twice_plain_torchs_error if in_16_bits else assert_equals_reference
    check(problem, cpu_layer)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("masks", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_reference_however_threads_share_the_work(dtype, masks):
    torch.manual_seed(0)
    for k, (sizes, proj) in enumerate(SHARED):
        ragged = k % 2 == 1
        assert_is_right(random_problem(*sizes, proj=proj, masks=masks, lengths=ragged, reverse=ragged, dtype=dtype))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("masks", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_reference_where_rows_are_too_few_to_pack_a_weight_for(dtype, masks):
    torch.manual_seed(0)
    for k, (sizes, proj) in enumerate(FEW_ROWS):
        ragged = k % 2 == 1
        assert_is_right(random_problem(*sizes, proj=proj, masks=masks, lengths=ragged, reverse=ragged, dtype=dtype))


@pytest.mark.parametrize("masks", ["none", "gal-batch", "untied-batch", "all"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_reference_where_the_gradients_take_their_rows_in_pieces(dtype, masks):
    """Some of a step's rows, or those of several steps; sums that are rounded when the last are there."""
    torch.manual_seed(0)
    for T, B in ((2, 900), (9, 100)):
        assert_is_right(random_problem(T, B, 3, 10, proj=5, masks=masks, lengths=True, dtype=dtype))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("masks", ["none", "gal-batch", "gal-sample", "semeniuta-shared", "zoneout", "all"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_on_every_run_and_without_a_gradient(dtype, masks):
    for sizes, proj in [*SHARED, *FEW_ROWS, ((40, 20, 6, 8), 3)]:
        problem = random_problem(*sizes, proj=proj, masks=masks, lengths=masks == "zoneout", dtype=dtype)
        first, again = problem.solve(cpu_layer), problem.solve(cpu_layer)
        assert all(torch.equal(first[name], again[name]) for name in first)
        with torch.no_grad():
            outputs = cpu_layer(
                *(problem.inputs[name] for name in INPUTS), W_hr=problem.inputs["W_hr"], **problem.options
            )
        assert all(torch.equal(output, first[name]) for name, output in zip(OUTPUTS, outputs, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_a_mask_drops_of_h_has_no_part(dtype, value):
    """Columns of W_hh are left out, not multiplied by zero."""
    for sizes, proj in [((6, 40, 33, 65), 40), ((9, 2, 21, 130), 67)]:
        problem = random_problem(*sizes, proj=proj, masks="gal-batch", dtype=dtype)
        dropped = problem.options["mask_h"] == 0
        assert dropped.any() and not dropped.all()
        expected = problem.solve(cpu_layer)
        problem.inputs["W_hh"][:, dropped] = value
        actual = problem.solve(cpu_layer)
        for name in actual:
            assert torch.equal(actual[name], expected[name]), name
        assert not actual["dW_hh"][:, dropped].any()


def test_past_its_end_a_row_is_zero_whatever_the_weight_is():
    problem = random_problem(4, 3, 5, 6, proj=2, lengths=True)
    problem.inputs["W_hr"] = torch.full_like(problem.inputs["W_hr"], float("nan"))
    with torch.no_grad():
        y, h_n, _ = cpu_layer(
            *(problem.inputs[name] for name in INPUTS), W_hr=problem.inputs["W_hr"], **problem.options
        )
    lengths = problem.options["lengths"].tolist()
    assert 0 in lengths
    for b, length in enumerate(lengths):
        assert y[:length, b].isnan().all() and not y[length:, b].any()
        assert length > 0 or torch.equal(h_n[b], problem.inputs["h_0"][b])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masks", ["none", "gal-sample", "all"])
def test_empty_batch(masks, dtype):
    result = random_problem(4, 0, 3, 5, proj=2, masks=masks, lengths=masks == "all", dtype=dtype).solve(cpu_layer)
    assert result["y"].shape == (4, 0, 2) and result["dW_hr"].shape == (2, 5)
    assert all(not result[name].any() for name in ("dW_ih", "dW_hh", "dW_hr", "db_ih", "db_hh"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_input_features(dtype):
    torch.manual_seed(0)
    assert_is_right(random_problem(3, 2, 0, 6, proj=4, masks="mask_h-only", dtype=dtype))

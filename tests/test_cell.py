"""The cell maths by itself: numbers worked by hand, and the accuracy of sigmoid and tanh."""

import ctypes
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

REPO = Path(__file__).resolve().parents[1]
DTYPES = {"float32": np.float32, "float64": np.float64}


@pytest.fixture(scope="module", params=[[], ["-mavx2", "-mfma"]], ids=["baseline", "avx2"])
def library(request, tmp_path_factory):
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    if request.param and " avx2 " not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this CPU has no AVX2")
    out = tmp_path_factory.mktemp("cell") / "libcell.so"
    subprocess.run(
        [compiler, "-std=c++17", "-O3", "-shared", "-fPIC", *request.param, f"-I{REPO / 'csrc'}",
         str(REPO / "tests" / "cell_library.cpp"), "-o", str(out)],
        check=True,
    )  # fmt: skip
    return ctypes.CDLL(str(out))


def apply(library, name, dtype, x):
    x = np.ascontiguousarray(x, DTYPES[dtype])
    out = np.empty_like(x)
    getattr(library, f"{name}_{dtype}")(x.ctypes, out.ctypes, ctypes.c_int64(x.size))
    return out


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_worked_by_hand(library, dtype):
    """i = 1/2, f = 3/4, g = 3/5, o = 1/4, and c_prev such that c = ln 2, so that tanh(c) = 3/5."""
    ln2, ln3, m_g = math.log(2), math.log(3), 2
    c_prev = (ln2 - 1 / 2 * (m_g * 3 / 5)) / (3 / 4)
    dh, dc = 1, 0.5
    unused = math.nan  # the noise on the state, and h_prev
    inputs = [0, ln3, ln2, -ln3, m_g, unused, unused, unused, c_prev, unused, dh, dc]

    dc_total = 0.5 + 1 * 1 / 4 * (1 - 9 / 25)  # 0.66
    forward = [1 / 2, 3 / 4, 3 / 5, 1 / 4, ln2, 3 / 20]
    backward = [
        dc_total * (2 * 3 / 5) * (1 / 2 * 1 / 2),  # di_pre
        dc_total * c_prev * (3 / 4 * 1 / 4),  # df_pre
        dc_total * 1 / 2 * 2 * (1 - 9 / 25),  # dg_pre
        1 * 3 / 5 * (1 / 4 * 3 / 4),  # do_pre
        dc_total * 3 / 4,  # dc_prev
        0,  # dh_prev
    ]
    assert_cell(library, "cell", dtype, inputs, forward, backward)


@pytest.mark.parametrize("dtype", DTYPES)
def test_noisy_state_worked_by_hand(library, dtype):
    """The same gates, with m_c = 1/2 and c_prev such that c_new = ln 2 again; a fifth of c stays, a quarter of h."""
    ln2, ln3, m_g, m_c, z_c, z_h = math.log(2), math.log(3), 2, 1 / 2, 1 / 5, 1 / 4
    c_prev = (ln2 / m_c - 1 / 2 * (m_g * 3 / 5)) / (3 / 4)
    h_prev, dh, dc = 0.3, 1, 0.5
    inputs = [0, ln3, ln2, -ln3, m_g, m_c, z_c, z_h, c_prev, h_prev, dh, dc]

    dh_new = 3 / 4
    dc_new = 4 / 5 * 0.5 + dh_new * 1 / 4 * (1 - 9 / 25)  # 0.52
    dc_sum = m_c * dc_new
    forward = [1 / 2, 3 / 4, 3 / 5, 1 / 4, c_prev / 5 + 4 / 5 * ln2, h_prev / 4 + 3 / 4 * 3 / 20]
    backward = [
        dc_sum * (2 * 3 / 5) * (1 / 2 * 1 / 2),
        dc_sum * c_prev * (3 / 4 * 1 / 4),
        dc_sum * 1 / 2 * 2 * (1 - 9 / 25),
        dh_new * 3 / 5 * (1 / 4 * 3 / 4),
        dc_sum * 3 / 4 + 0.5 / 5,
        1 / 4,
    ]
    assert_cell(library, "noisy_cell", dtype, inputs, forward, backward)


@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_that_is_not_set_is_none(library, dtype):
    """The same gates, and c_prev such that c = ln 2 where m_g and m_c are 1, and z_c and z_h are 0."""
    ln2, ln3 = math.log(2), math.log(3)
    c_prev = (ln2 - 1 / 2 * 3 / 5) / (3 / 4)
    unused = math.nan
    dh, dc = 1, 0.5
    inputs = [0, ln3, ln2, -ln3, unused, unused, unused, unused, c_prev, 0.3, dh, dc]

    dc_total = 0.5 + 1 * 1 / 4 * (1 - 9 / 25)
    forward = [1 / 2, 3 / 4, 3 / 5, 1 / 4, ln2, 3 / 20]
    backward = [
        dc_total * 3 / 5 * (1 / 2 * 1 / 2),
        dc_total * c_prev * (3 / 4 * 1 / 4),
        dc_total * 1 / 2 * (1 - 9 / 25),
        1 * 3 / 5 * (1 / 4 * 3 / 4),
        dc_total * 3 / 4,
        0,
    ]
    assert_cell(library, "noiseless_cell", dtype, inputs, forward, backward)


def assert_cell(library, name, dtype, inputs, expected_forward, expected_backward):
    inputs = np.array(inputs, DTYPES[dtype])
    forward, backward = np.empty(6, DTYPES[dtype]), np.empty(6, DTYPES[dtype])
    getattr(library, f"{name}_{dtype}")(inputs.ctypes, forward.ctypes, backward.ctypes)
    tolerance = 1e-6 if dtype == "float32" else 1e-15
    np.testing.assert_allclose(forward, expected_forward, rtol=tolerance)
    np.testing.assert_allclose(backward, expected_backward, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_accurate_to_three_ulp(library, name, dtype):
    """Against long double, densely near 0 and out to where the result is about the smallest normal number."""
    end = 85 if dtype == "float32" else 700
    x = np.concatenate([np.linspace(-end, end, 400_001), np.linspace(-2, 2, 400_001), np.geomspace(1e-30, 1, 100_001)])
    x = x.astype(DTYPES[dtype])
    exact = np.tanh(x.astype(np.longdouble)) if name == "tanh" else 1 / (1 + np.exp(-x.astype(np.longdouble)))
    ulp = np.spacing(np.abs(exact.astype(DTYPES[dtype]))).astype(np.longdouble)
    error = np.abs(apply(library, name, dtype, x).astype(np.longdouble) - exact) / ulp
    assert error.max() <= 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_limits(library, dtype):
    x = [0.0, 1e4, -1e4, np.inf, -np.inf, np.finfo(DTYPES[dtype]).max, np.nan]
    np.testing.assert_array_equal(apply(library, "sigmoid", dtype, x), [0.5, 1, 0, 1, 0, 1, np.nan])
    np.testing.assert_array_equal(apply(library, "tanh", dtype, x), [0, 1, -1, 1, -1, 1, np.nan])
    assert np.signbit(apply(library, "tanh", dtype, [-0.0]))[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_where_the_exponential_overflows(library, dtype):
    """It falls to 0 without a gap on the way."""
    limit = math.log(float(np.finfo(DTYPES[dtype]).max))
    y = apply(library, "sigmoid", dtype, np.linspace(-limit - 3, -limit + 3, 10_001))
    assert (np.diff(y) >= 0).all()
    assert y[0] == 0
    assert y[-1] == pytest.approx(math.exp(-limit + 3), rel=1e-5)

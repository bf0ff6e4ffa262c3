"""The step kernels in a program of their own: against the definition, under the sanitizers, and with every line run."""

from __future__ import annotations

import pytest

from tests.emulation import toolchain

KERNELS = toolchain.REPO / "csrc/cuda/step_kernels.cu"
DRIVER = [KERNELS, toolchain.REPO / "tests/cuda/step_driver.cpp"]

pytestmark = pytest.mark.skipif(bool(toolchain.why_unusable()), reason=toolchain.why_unusable())


@pytest.mark.parametrize("schedule", toolchain.SCHEDULES)
def test_definition(schedule):
    done = toolchain.run(toolchain.build_program("step_driver", DRIVER), "1000", schedule=schedule)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("sanitize", "steps"), [("address", 100), ("thread", 8)])
def test_sanitizers_find_nothing(sanitize, steps):
    program = toolchain.build_program("step_driver", DRIVER, sanitize=sanitize)
    done = toolchain.run(program, str(steps), schedule="rand1")
    assert done.returncode == 0, done.stdout


def test_every_line_of_the_kernels_runs():
    pytest.importorskip("gcovr", reason="line coverage needs gcovr: pip install gcovr")
    program = toolchain.build_program("step_driver", DRIVER, coverage=True)
    runs = toolchain.lines_run(program, [KERNELS], "300")[KERNELS]
    assert len(runs) > 100
    assert [line for line, count in runs.items() if count == 0] == [], f"lines of {KERNELS.name} that no test runs"

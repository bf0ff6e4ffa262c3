"""Every test starts from the same seed; what tests of several files need of torch."""

from collections.abc import Iterator

import pytest
import torch

from rnndrop_cuda import ops

# The files that take longest: two processes that share out whole files end together where no long one begins last.
# test_types.py, which did and had a process to itself for 40 s, is behind the others: its mypy shares lint's cache, and
# lint runs beside the first tests.
LONGEST = (
    "tests/system/test_sanitized.py",
    "tests/cuda/test_recurrence_kernels.py",
    "tests/test_functional.py",
    "tests/system/test_fresh_process.py",
    "tests/system/test_packaging.py",
    "tests/test_ops.py",
    "tests/test_types.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, the others in their order."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """torch on two threads, and as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """torch on as many threads, and as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each call of a module that came to csrc/plain_call.h whether that took it."""
    results: list[bool] = []
    original = ops.plain_call

    def counted(*args: object) -> object:
        result = original(*args)
        results.append(result is not None)
        return result

    monkeypatch.setattr(ops, "plain_call", counted)
    return results

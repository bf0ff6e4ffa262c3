"""Nothing here can run without a compiler and CUDA's headers: then all of it is skipped, saying why."""

import pytest

from tests.emulation import toolchain


@pytest.fixture(scope="session", autouse=True)
def usable() -> None:
    if reason := toolchain.why_unusable():
        pytest.skip(reason)

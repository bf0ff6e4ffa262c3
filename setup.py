"""What pyproject.toml cannot say: the extension, which is build_backend/kernels.py's, and the torch that it fits."""

import sys

from setuptools import setup

ANY_TORCH, OTHERS = "torch>=2.11", ["numpy"]

if "sdist" in sys.argv[1:]:  # the sources alone, for which nobody needs a torch
    setup(install_requires=[ANY_TORCH, *OTHERS])
else:
    sys.path.insert(0, "build_backend")
    import kernels

    setup(
        # Kernels load with the torch that they were built for. Where there are none, any will do.
        install_requires=[kernels.TORCH_OF_KERNELS or ANY_TORCH, *OTHERS],
        ext_modules=kernels.EXTENSIONS,
        cmdclass=kernels.COMMANDS,
    )

"""`python -m rnndrop_cuda`: the same as the command `rnndrop`."""

from rnndrop_cuda.cli import main

raise SystemExit(main())

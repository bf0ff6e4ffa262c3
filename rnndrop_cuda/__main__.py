"""`python -m rnndrop_cuda`: the same as the command `rnndrop`."""

from rnndrop_command import main

raise SystemExit(main())

"""Checks an installed CUDA build of rnndrop_cuda on a machine without a GPU; the last step of `make cuda-link`."""

from __future__ import annotations

import torch

from rnndrop_cuda import functional, info, reference

facts = info.build_facts()
assert facts is not None, "the extension was not built"
assert facts["cuda"] == torch.version.cuda, facts

for op in ("rnndrop::lstm_layer", "rnndrop::lstm_layer_backward"):
    for device in ("CPU", "CUDA"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(op, device), f"{op} has no {device} kernel"

T, B, I, H = 5, 3, 7, 4
shapes = {"x": (T, B, I), "h_0": (B, H), "c_0": (B, H), "W_ih": (4 * H, I), "W_hh": (4 * H, H)}
inputs = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}
for got, expected in zip(functional.lstm_layer(**inputs, backend="cpu"), reference.lstm_layer(**inputs), strict=True):
    torch.testing.assert_close(got, expected)

print(info.report())
print("==> cuda-link OK: the CUDA extension builds, links, loads, and its CPU op equals the reference")

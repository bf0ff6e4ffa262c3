"""What mypy tells the user of the layers: types of the results, and which keywords and names are wrong."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RIGHT = """
import torch
from torch.nn.utils.rnn import pack_sequence
from rnndrop_cuda import LSTM, GalLSTM, TorchLSTM
x = torch.randn(5, 3, 4)
layer = LSTM(4, 6, 2, True, mask_scope="sample", init="orthogonal")
y, (h_n, c_n) = layer(x)
reveal_type(y)
reveal_type(h_n)
reveal_type(layer(pack_sequence([x[:, 0]]))[0].batch_sizes)
reveal_type(GalLSTM(4, 6, dropout=0.5, forget_bias=1.0)(x)[1][1])
reveal_type(TorchLSTM(4, 6)(x)[0])
reveal_type(GalLSTM.from_torch(torch.nn.LSTM(4, 6), dropout=0.5))
reveal_type(layer.draw_masks(5, 3)[0].h)
"""
REVEALED = [
    "torch._tensor.Tensor", "torch._tensor.Tensor", "torch._tensor.Tensor", "torch._tensor.Tensor",
    "torch._tensor.Tensor", "rnndrop_cuda.presets.GalLSTM", "torch._tensor.Tensor | None",
]  # fmt: skip
WRONG = [
    'LSTM(4, 6, num_layer=2)', 'GalLSTM(4, 6, num_layer=2)', 'LSTM(4, 6, bidirectional="yes")',
    'GalLSTM(4, 6, bidirectional="yes")', 'LSTM(4, 6, mask_scope="bach")', 'GalLSTM(4, 6, mask_scope="bach")',
    'SemeniutaLSTM(4, 6, init="xavier")', 'TorchLSTM(4, 6, backend="gpu")', "LSTM(4, 6)(3)",
    "LSTM.from_torch(torch.nn.LSTM(4, 6), hidden_dropuot=0.5)",
    "LSTM(4, 6)(torch.randn(5, 3, 4), length=[1])",
]  # fmt: skip


def check(tmp_path, script):
    pytest.importorskip("mypy")
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", ROOT / ".mypy_cache", tmp_path / "script.py"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout


def test_results_have_types(tmp_path):
    said = check(tmp_path, RIGHT)
    assert re.findall(r'Revealed type is "(.*)"', said) == REVEALED, said
    # Of an installed package mypy reports nothing; here it also names the project's own files, which are not --strict.
    assert not re.search(r"script\.py:\d+: error", said), said


def test_what_is_wrong_is_said(tmp_path):
    """Line by line, an error each."""
    lines = ["import torch", "from rnndrop_cuda import LSTM, GalLSTM, SemeniutaLSTM, TorchLSTM", *WRONG]
    said = check(tmp_path, "\n".join(lines) + "\n")
    assert sorted({int(line) for line in re.findall(r"script.py:(\d+): error", said)}) == [
        number for number, line in enumerate(lines, 1) if line in WRONG
    ], said

"""What mypy and pyright tell the user of the layers: types of the results, which keywords and names are wrong."""

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
REVEALED = ["Tensor"] * 5 + ["GalLSTM", "Tensor | None"]
WRONG = [
    'LSTM(4, 6, num_layer=2)', 'GalLSTM(4, 6, num_layer=2)', 'LSTM(4, 6, bidirectional="yes")',
    'GalLSTM(4, 6, bidirectional="yes")', 'LSTM(4, 6, mask_scope="bach")', 'GalLSTM(4, 6, mask_scope="bach")',
    'SemeniutaLSTM(4, 6, init="xavier")', 'TorchLSTM(4, 6, backend="gpu")', "LSTM(4, 6)(3)",
    "LSTM.from_torch(torch.nn.LSTM(4, 6), hidden_dropuot=0.5)",
    "LSTM(4, 6)(torch.randn(5, 3, 4), length=[1])",
]  # fmt: skip


MYPY = ("mypy", "--strict", "--cache-dir", ROOT / ".mypy_cache")
PYRIGHT = ("basedpyright", "--pythonpath", sys.executable, "--project", ROOT / "tests" / "pyrightconfig.json")
CHECKERS = pytest.mark.parametrize("checker", [MYPY, PYRIGHT], ids=["mypy", "pyright"])


def check(checker, script, lines):
    pytest.importorskip(checker[0])
    script.write_text(lines)
    return subprocess.run([sys.executable, "-m", *checker, script], cwd=ROOT, capture_output=True, text=True).stdout


@CHECKERS
def test_results_have_types(checker, tmp_path):
    said = check(checker, tmp_path / "script.py", RIGHT)
    types = re.findall(r'(?:Revealed type is|Type of ".*" is) "(.*)"', said)
    assert [re.sub(r"\b\w+\.", "", revealed) for revealed in types] == REVEALED, said
    # Of an installed package mypy reports nothing; here it also names the project's own files, which are not --strict.
    assert not re.search(r"script\.py:\d+(:\d+ -|:) error", said), said


@CHECKERS
def test_what_is_wrong_is_said(checker, tmp_path):
    """Line by line, an error each."""
    lines = ["import torch", "from rnndrop_cuda import LSTM, GalLSTM, SemeniutaLSTM, TorchLSTM", *WRONG]
    said = check(checker, tmp_path / "script.py", "\n".join(lines) + "\n")
    assert sorted({int(line) for line in re.findall(r"script\.py:(\d+)(?::\d+ -|:) error", said)}) == [
        number for number, line in enumerate(lines, 1) if line in WRONG
    ], said

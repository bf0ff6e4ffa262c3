"""Processes that have imported rnndrop_cuda only: what that costs them; files of torch.export, traces, AOTInductor."""

import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from rnndrop_cuda import LSTM
from tests.modules import DROPOUT, NOT_USABLE, B, H, I, T

pytestmark = pytest.mark.skipif(bool(NOT_USABLE["cpu"]), reason=NOT_USABLE["cpu"])


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = LSTM(I, H, 2, bidirectional=True, **DROPOUT)

    def forward(self, x, lengths):
        y, (h_n, c_n) = self.lstm(x, lengths=lengths)
        return y, h_n, c_n


LOADERS = {
    "torch.export": "torch.export.load({path!r}).module()",
    "torch.jit.trace": "torch.jit.load({path!r})",
    "aot": "torch._inductor.aoti_load_package({path!r})",
}


def exported(model, arguments):
    batch = torch.export.Dim("B", min=2, max=64)
    shapes = {"x": {0: torch.export.Dim("T", min=2, max=64), 1: batch}, "lengths": {0: batch}}
    return torch.export.export(model, arguments, dynamic_shapes=shapes)


def save(how, model, arguments, folder):
    """Where it was saved."""
    path = str(folder / ("model.pt" if how == "torch.jit.trace" else f"{how}.pt2"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated
        if how == "torch.jit.trace":
            torch.jit.save(torch.jit.trace(model, arguments), path)
        elif how == "torch.export":
            torch.export.save(exported(model, arguments), path)
        else:
            torch._inductor.aoti_compile_and_package(exported(model, arguments), package_path=path)
    return path


def run_elsewhere(files, folder, statement):
    """All of them in one process, on what is in inputs.pt: the outputs of each, or its error; what was said beside."""
    program = f"import torch\n{statement}\nresults = {{}}\narguments = torch.load('inputs.pt')\n" + "".join(
        f"try:\n    results[{how!r}] = [output.detach() for output in {LOADERS[how].format(path=path)}(*arguments)]\n"
        f"except BaseException as error:\n    results[{how!r}] = str(error)\n"
        for how, path in files.items()
    )
    program += "torch.save(results, 'outputs.pt')\n"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "outputs.pt"), done.stderr


@pytest.mark.parametrize(
    "hows",
    [
        ["torch.export", "torch.jit.trace"],
        pytest.param(
            ["aot"],
            marks=[pytest.mark.slow, pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")],
        ),
    ],
    ids=" and ".join,
)
def test_a_file_runs_in_a_process_that_imports_rnndrop_cuda(tmp_path, hows):
    """For other values, lengths and sizes than it was made with; without the import it says that the op is missing."""
    model = Model().eval()
    files = {how: save(how, model, (torch.randn(T, B, I), torch.tensor([T, 0, 2])), tmp_path) for how in hows}
    arguments = torch.randn(T + 3, B + 1, I), torch.tensor([1, T + 3, 0, 4])
    torch.save(arguments, tmp_path / "inputs.pt")
    with torch.no_grad():
        expected = model(*arguments)
    results, _ = run_elsewhere(files, tmp_path, "import rnndrop_cuda")
    for outputs in results.values():
        assert not isinstance(outputs, str), outputs
        for actual, wanted in zip(outputs, expected, strict=True):
            torch.testing.assert_close(actual, wanted)
    errors, said = run_elsewhere(files, tmp_path, "")
    for error in errors.values():
        assert isinstance(error, str) and "rnndrop" in error + said


def run(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_import_adds_no_more_of_torch_than_the_flop_counter():
    """Dynamo would take as long as torch itself."""
    before = "import sys, torch\nbefore = set(sys.modules)\n"
    names = run(f"{before}import rnndrop_cuda\nprint(*set(sys.modules) - before)")
    ours = ("rnndrop_cuda", "torch.utils.flop_counter", "torch.utils.module_tracker", "triton")
    assert [name for name in names if not name.startswith(ours)] == []


@pytest.mark.parametrize("order", ["rnndrop_cuda, torch.utils.flop_counter", "torch.utils.flop_counter, rnndrop_cuda"])
def test_flops_are_counted_whoever_is_imported_first(order):
    count = "with torch.utils.flop_counter.FlopCounterMode(display=False) as counter: rnndrop_cuda.LSTM(2, 3)(x)"
    assert run(f"import {order}\nimport torch\nx = torch.ones(5, 1, 2)\n{count}\nprint(counter.get_total_flops())") == [
        str(2 * 5 * 12 * (2 + 3))
    ]

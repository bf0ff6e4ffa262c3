"""The module in several threads at once, and in forked processes."""

import multiprocessing
import subprocess
import sys
import threading

import pytest
import torch

from rnndrop_cuda import LSTM, dropout_mask
from tests.modules import ANY_BACKEND, DROPOUT, assert_close, backends, device_of, flat, loss_of, training_step


@ANY_BACKEND
def test_threads_calling_at_once_get_the_serial_results(backend):
    model = LSTM(
        32, 48, 2, bidirectional=True, **DROPOUT | {"dropout": 0.0}, backend=backend, device=device_of(backend)
    )
    tasks = [(torch.randn(12, 33, 32, device=device_of(backend)), model.draw_masks(12, 33)) for _ in range(2)]

    def solve(x, masks):
        x = x.clone().requires_grad_()
        output = model(x, masks=masks)
        return [*flat(output), *torch.autograd.grad(loss_of(output), [x, *model.parameters()])]

    expected = [solve(*task) for task in tasks]
    start, results = threading.Barrier(2), [[], []]

    def repeat(k):
        start.wait()
        for _ in range(10):
            results[k].append(solve(*tasks[k]))

    threads = [threading.Thread(target=repeat, args=(k,), daemon=True) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive(), "a thread hung"
    for got, wanted in zip(results, expected, strict=True):
        assert len(got) == 10
        for result in got:
            assert_close(result, wanted, 1e-6)


def in_forked_child(function, seconds=30):
    """What the function returns in a child of this process, or the text of what it raises; fails where it hangs."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def run():
        try:
            sender.send(function())
        except Exception as error:
            sender.send(f"{type(error).__name__}: {error}")

    child = context.Process(target=run)
    child.start()
    answered = receiver.poll(seconds)
    child.kill()
    child.join()
    assert answered, f"the forked child hung for {seconds} s"
    return receiver.recv()


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("backend", backends("cpu", "python"))
def test_forked_child_on_one_thread_gets_the_right_result(backend):
    """As a DataLoader's worker: it starts by asking for one thread."""
    model = LSTM(32, 128, 2, bidirectional=True, **DROPOUT, backend=backend)
    x = torch.randn(10, 64, 32)
    expected = training_step(model, x)

    def child():
        torch.set_num_threads(1)
        assert_close(training_step(model, x), expected, 1e-5)
        return "right"

    assert in_forked_child(child) == "right"


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("backend", backends("cpu"))
def test_forked_child_on_several_threads_is_told_that_it_cannot(backend):
    """nn.LSTM hangs there: OpenMP's threads do not survive a fork."""
    model = LSTM(32, 128, 2, bidirectional=True, backend=backend)
    x = torch.randn(10, 64, 32)
    model(x)
    assert "set_num_threads(1)" in in_forked_child(lambda: model(x)[0].sum().item(), seconds=10)
    model.eval().requires_grad_(False)  # then each direction is a thread's
    model(x)
    assert "set_num_threads(1)" in in_forked_child(lambda: model(x)[0].sum().item(), seconds=10)


AFTER_ONE_THREAD = """
import os, torch
from rnndrop_cuda import LSTM

torch.set_num_threads(2)
LSTM(2, 3, backend="cpu")(torch.zeros(1, 1, 2))
child = os.fork()
if child:
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
assert LSTM(32, 128, backend="cpu")(torch.ones(10, 64, 32))[0].isfinite().all()
os._exit(7)
"""


@pytest.mark.parametrize("backend", backends("cpu"))
def test_a_call_on_one_thread_leaves_forked_children_theirs(backend):
    """Too small for two, it starts no pool. In a process of its own: this one has run on several."""
    done = subprocess.run([sys.executable, "-c", AFTER_ONE_THREAD], timeout=60, capture_output=True, check=False)
    assert done.returncode == 7, done.stderr.decode()


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("backend", backends("cpu"))
def test_forked_child_draws_small_masks_only(backend):
    assert dropout_mask((500, 500), 0.5).any()
    assert "set_num_threads(1)" in in_forked_child(lambda: dropout_mask((500, 500), 0.5).shape, seconds=10)
    assert in_forked_child(lambda: bool(dropout_mask((500,), 0.5).any()), seconds=10) is True

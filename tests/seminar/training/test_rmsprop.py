"""LazyRMSprop: torch's dense RMSprop is the oracle, step for step, for rows that are met often, seldom and never."""

import copy

import pytest
import torch
from torch import Tensor, nn

from rnndrop_cuda.seminar import LazyRMSprop

WORDS, EVER_MET = 40, 30


def grads(seed: int, steps: int) -> list[tuple[Tensor, Tensor]]:
    """Ids [4, 3] and the gradients of their vectors, a step each: some twice in one step, high ones rarely."""
    rng = torch.Generator().manual_seed(seed)
    steps_of_ids = (torch.rand(steps, 4, 3, generator=rng, dtype=torch.float64) ** 3 * EVER_MET).long()
    return [(ids, torch.randn(4, 3, 5, generator=rng, dtype=torch.float64)) for ids in steps_of_ids]


class Words(nn.Module):
    """An embedding and a dense weight that one optimizer trains."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(WORDS, 5, sparse=sparse, dtype=torch.float64)
        self.linear = nn.Linear(5, 5, dtype=torch.float64)

    def learn(self, optimizer: torch.optim.Optimizer, batches: list[tuple[Tensor, Tensor]]) -> None:
        for ids, upstream in batches:
            optimizer.zero_grad()
            self.linear(self.embedding(ids)).backward(upstream)
            optimizer.step()


def assert_same(model: Words, expected: Words) -> None:
    torch.testing.assert_close(dict(model.named_parameters()), dict(expected.named_parameters()), rtol=0, atol=1e-12)


@pytest.fixture
def dense() -> tuple[Words, torch.optim.Optimizer]:
    model = Words(sparse=False)
    return model, torch.optim.RMSprop(model.parameters(), lr=0.01, alpha=0.9, eps=1e-6)


@pytest.fixture
def lazy() -> tuple[Words, LazyRMSprop]:
    model = Words(sparse=True)
    return model, LazyRMSprop(model.parameters(), lr=0.01, alpha=0.9, eps=1e-6)


def test_it_is_the_dense_optimizer(dense, lazy):
    batches = grads(seed=1, steps=300)
    before = lazy[0].embedding.weight.detach().clone()
    for batch in batches:
        for model, optimizer in (dense, lazy):
            model.learn(optimizer, [batch])
        assert lazy[0].embedding.weight.grad.is_sparse, "the step leaves the gradient as it found it"
        assert_same(lazy[0], dense[0])
    never_met = torch.ones(WORDS, dtype=torch.bool)
    never_met[torch.stack([ids for ids, _ in batches]).unique()] = False
    assert never_met.sum() >= WORDS - EVER_MET
    assert torch.equal(lazy[0].embedding.weight[never_met], before[never_met])


def test_a_saved_run_is_resumed(dense, lazy):
    batches = grads(seed=2, steps=60)
    dense[0].learn(dense[1], batches)
    lazy[0].learn(lazy[1], batches[:30])
    loaded = LazyRMSprop(lazy[0].parameters(), lr=0.5)
    loaded.load_state_dict(copy.deepcopy(lazy[1].state_dict()))
    lazy[0].learn(loaded, batches[30:])
    assert_same(lazy[0], dense[0])


@pytest.mark.parametrize("first", [False, True])
def test_gradients_may_turn_sparse_and_dense_again(dense, lazy, first):
    """As they do where a second use of the embedding adds a dense gradient to the sparse one."""
    batches = grads(seed=3, steps=60)
    dense[0].learn(dense[1], batches)
    model, optimizer = lazy
    for sparse in (first, not first, first):
        model.embedding.sparse = sparse
        model.learn(optimizer, batches[:20])
        batches = batches[20:]
    assert_same(model, dense[0])


def test_a_closure_is_called_once_and_its_loss_returned(dense, lazy):
    ((ids, upstream),) = batches = grads(seed=4, steps=1)
    dense[0].learn(dense[1], batches)
    model, optimizer = lazy

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (model.linear(model.embedding(ids)) * upstream).sum()
        loss.backward()
        return loss

    assert torch.is_tensor(optimizer.step(closure))
    assert_same(model, dense[0])


@pytest.mark.parametrize("option", ["momentum", "weight_decay", "centered", "maximize", "differentiable"])
def test_what_moves_rows_without_gradient_is_refused(option):
    model = Words(sparse=True)
    optimizer = LazyRMSprop(model.parameters(), **{option: True})
    model.embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse in its rows only, and go without momentum"):
        optimizer.step()


def test_hooks_run_once_a_step_whatever_else_was_made():
    torch.optim.RMSprop([nn.Parameter(torch.ones(1))])  # from here on torch's own step runs hooks, too
    model = Words(sparse=True)
    optimizer = LazyRMSprop(model.parameters(), lr=0.01)
    steps = []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert steps == [1]

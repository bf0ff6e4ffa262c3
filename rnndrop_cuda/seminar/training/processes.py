"""The processes that torchrun starts for one training: who has which share of a batch, and what they tell each other.

Every process has all reviews, draws the same batches and the same dropout, and takes its own share of the rows; their
gradients are added up. So the steps are those of one process with the whole batch, up to rounding, masks included.
Started without torchrun there is one process, and everything here leaves things as they are.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from rnndrop_cuda.lstm import LSTM
from rnndrop_cuda.masks import LayerMasks, cut
from rnndrop_cuda.seminar.dropout import LayerDropout
from rnndrop_cuda.seminar.training.batches import Batch
from rnndrop_cuda.seminar.training.loop import AnySums

T = TypeVar("T")


class Processes:
    """rank: which of them this one is, 0 the one that reads checkpoints, writes and prints. ranks: how many."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.ranks = int(os.environ.get("WORLD_SIZE", "1"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
        self._started = False
        self._rows = slice(0)  # of the batch that is computed
        self._batch_size = 0
        self._stands_in = False  # whether they are another's, computed for nothing

    @property
    def first(self) -> bool:
        return self.rank == 0

    def start(self, device: torch.device) -> None:
        """Waits for the others, where they have not met already."""
        if self.ranks == 1 or dist.is_initialized():
            return
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # Objects and sums go through gloo on every device.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=self._store_of_this_life(), rank=self.rank, world_size=self.ranks)
        self._started = True

    def _store_of_this_life(self) -> dist.Store:
        """Where these processes, and none that died before them, find one another.

        To the processes that it starts again torchrun gives the store of the dead ones, in which gloo would find their
        addresses, and wait for them. So the first process names its life, and tells the name to each other one under a
        key that only that one can have asked with. Raises TimeoutError where one does not come.
        """
        store, _, _ = next(dist.rendezvous("env://"))
        mine = uuid.uuid4().hex
        if not self.first:
            store.set(f"asks/{self.rank}", mine)
            life = store.get(f"told/{mine}").decode()  # waits for it
            store.set(f"{life}/{self.rank}", "knows")
            return dist.PrefixStore(life, store)
        missing = list(range(1, self.ranks))
        end = time.monotonic() + store.timeout.total_seconds()
        while missing:
            for rank in missing:
                if store.check([f"asks/{rank}"]):  # it may be a dead one's yet
                    store.set(f"told/{store.get(f'asks/{rank}').decode()}", mine)
            missing = [rank for rank in missing if not store.check([f"{mine}/{rank}"])]
            if time.monotonic() > end:
                raise TimeoutError(f"of the {self.ranks} processes these did not come: {missing}")
            time.sleep(0.01)
        return dist.PrefixStore(mine, store)

    def stop(self) -> None:
        """Ends what start began."""
        if self._started:
            dist.destroy_process_group()
            self._started = False

    def from_first(self, make: Callable[[], T]) -> T:
        """What make returns or raises in the first process, in every one."""
        if self.ranks == 1:
            return make()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = make()
            except (OSError, ValueError) as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        made: T = outcome[0]
        return made

    def total(self, sums: AnySums) -> AnySums:
        """Of all processes together."""
        if self.ranks == 1:
            return sums
        total = torch.tensor(sums, dtype=torch.float64)  # counts are exact up to 2^53
        dist.all_reduce(total)
        return type(sums)(*(type(of_one)(of_all) for of_one, of_all in zip(sums, total.tolist(), strict=True)))

    def rows_of(self, B: int) -> slice:
        """This process' rows of a batch of B."""
        return slice(B * self.rank // self.ranks, B * (self.rank + 1) // self.ranks)

    def whole(self, share: Tensor) -> int:
        """Rows of the batch that the share was taken from last."""
        return len(share) if self.ranks == 1 else self._batch_size

    def all_rows(self, tensors: Sequence[Tensor], dim: int) -> list[Tensor]:
        """Of each tensor the rows of all processes, along dim, on the CPU."""
        mine = [tensor.cpu() for tensor in tensors]
        if self.ranks == 1:
            return mine
        of_all: list[Any] = [None] * self.ranks
        dist.all_gather_object(of_all, mine)
        return [torch.cat(shares, dim) for shares in zip(*of_all, strict=True)]

    def share(self, batch: Batch) -> Batch:
        """This process' rows of a batch.

        Where there are none left for it, the ids are of one that stands in, since not every layer takes an empty batch;
        the labels are none, and the joined model drops the row's probability.
        """
        if self.ranks == 1:
            return batch
        self._batch_size = len(batch[1])
        rows = self.rows_of(self._batch_size)
        self._stands_in = rows.start == rows.stop
        self._rows = slice(1) if self._stands_in else rows
        ids, labels, *lengths = batch[0][self._rows], batch[1][rows], *(tensor[self._rows] for tensor in batch[2:])
        return (ids, labels, lengths[0]) if lengths else (ids, labels)

    def join(self, model: nn.Module, *, find_unused: bool = False) -> nn.Module:
        """The model to train with: its gradients are the sums over all processes, its masks those of whole batches.

        find_unused: whether there may be parameters that a batch has no gradient of.
        """
        if self.ranks == 1:
            return model
        for layer in model.modules():
            if isinstance(layer, LSTM):
                layer.register_forward_pre_hook(self._give_masks, with_kwargs=True)
            elif isinstance(layer, LayerDropout):
                layer.rows_of = lambda B: (self._batch_size, self._rows)
        model.register_forward_hook(self._drop_stand_in)
        joined = DistributedDataParallel(model, find_unused_parameters=find_unused)
        joined.register_comm_hook(
            None, lambda _, bucket: _sum_gradients(bucket)
        )  # it refuses annotations that are text
        return joined

    def _drop_stand_in(self, model: nn.Module, args: Any, output: Any) -> Any:
        return output[:0] if self._stands_in else output

    def _give_masks(self, layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """Masks drawn for the whole batch, as one process would, and cut to this process' rows."""
        assert isinstance(layer, LSTM)
        if not layer.training:
            return None
        drawn = layer.draw_masks(args[0].shape[0], self._batch_size)
        return args, kwargs | {"masks": [self._cut(masks, layer) for masks in drawn]}

    def _cut(self, masks: LayerMasks, layer: LSTM) -> LayerMasks:
        return cut(masks, self._rows, layer)


def _sum_gradients(bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """DistributedDataParallel's own hook takes the mean, which is not the gradient of a summed loss."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda future: future.value()[0])

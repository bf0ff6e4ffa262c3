"""Training the seminar's classifier: batches, the loop, the optimizer, checkpoints and several processes."""

from rnndrop_cuda.seminar.training.batches import Batches, LengthBatches
from rnndrop_cuda.seminar.training.loop import Epoch, History, Score, evaluate, fit, train, train_epoch

__all__ = ["Batches", "Epoch", "History", "LengthBatches", "Score", "evaluate", "fit", "train", "train_epoch"]

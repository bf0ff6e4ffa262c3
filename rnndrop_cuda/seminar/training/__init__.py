"""Training the seminar's classifier: batches, epochs, the optimizer, checkpoints and several processes."""

from rnndrop_cuda.seminar.training.loop import Batches, History, LengthBatches, Score, evaluate, train, train_epoch

__all__ = ["Batches", "History", "LengthBatches", "Score", "evaluate", "train", "train_epoch"]

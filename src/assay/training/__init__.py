"""A deterministic training loop whose steps can be replayed."""

from .batches import Augment, Prepare, TrainingData
from .loop import Observer, evaluate, predict, train
from .recipe import Recipe
from .state import TrainingState

__all__ = ["Augment", "Observer", "Prepare", "Recipe", "TrainingData", "TrainingState", "evaluate", "predict", "train"]

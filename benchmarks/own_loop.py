"""A training in one's own loop, recorded: given weights, order of the examples and rates, so that published protocols can be followed."""

from assay.studies.own_loop import Epochs, record

__all__ = ["Epochs", "record"]

import os
import sys

import pytest

from runs.nursery import Nursery


@pytest.fixture(scope="session")
def nursery():
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(autouse=True)
def forgotten_by_accelerate():
    yield
    # Trainers of transformers 4 tell each other by it.
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
    if "accelerate.state" in sys.modules:
        # A training that ends in the middle of an epoch leaves its loader to the next one in the process.
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

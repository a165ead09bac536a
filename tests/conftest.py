"""What holds for all tests: property tests draw the same examples every time and look at no clock, and torch runs on one thread.

ASSAY_TEST_THREADS asks for another number of threads; `processors.py` runs the tests so, and with the processor's instructions held back.
"""

import os
import random
import signal

import hypothesis
import numpy as np
import torch

hypothesis.settings.register_profile("same", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# Nets as small as those of the tests are slower on several threads, ten times beside other tests, whose threads wait for the same cores.
torch.set_num_threads(int(os.environ.get("ASSAY_TEST_THREADS", "1")))

# Processes in the background of a shell ignore Ctrl-C, and what they start inherits that; tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item):
    """What a test draws without a seed of its own is the same alone, in any order and beside any other test."""
    # Of the CPU alone: torch.manual_seed notes where it was called from, for devices that may come later.
    torch.default_generator.manual_seed(0)
    np.random.seed(0)
    random.seed(0)

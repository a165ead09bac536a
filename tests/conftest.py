"""What holds for all tests: property tests draw the same examples every time and look at no clock, and torch runs on one thread."""

import os

import hypothesis
import torch

hypothesis.settings.register_profile("same", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# Nets as small as those of the tests are slower on several threads, ten times beside other tests, whose threads wait for the same cores.
torch.set_num_threads(1)

"""assay tells what every training example is worth.

Record a training run once, score it with every method, choose what to keep, verify by retraining, report on one page.
Names are loaded when first used, so that importing assay (and `assay --help`) costs no import of torch.
"""

__version__ = "0.1.0"

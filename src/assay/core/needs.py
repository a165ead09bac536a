"""The kinds of facts that a method can declare to read."""

import enum


class Need(enum.Enum):
    """One kind of fact. The value is its name; `how` tells a user how to get it recorded."""

    LABELS = "labels", "every run records the given labels"
    TARGET_PROBS = "target_probs", "every run records it"
    MARGINS = "margins", "every run records it"
    LOSSES = "losses", "every run records it"
    CORRECT = "correct", "every run records it"
    ENTROPIES = "entropies", "every run records it"
    ERROR_NORMS = "error_norms", "every run records it"
    TOP_PROBS = "top_probs", "every run records it"
    SECOND_PROBS = "second_probs", "every run records it"
    LOGITS = (
        "logits",
        "record with Recording(keep_logits=True), or of a table with assay.sklearn.TableRecording(keep_logits=True) (`assay record --keep-logits`), or "
        "score live while training",
    )
    MEAN_PROBS = (
        "mean_probs",
        "record with Recording(mean_probs=True), or of a table with assay.sklearn.TableRecording(mean_probs=True) (`assay record --mean-probs`), the "
        "default up to 4,194,304 examples x classes",
    )
    VALIDATION_LOSSES = (
        "validation_losses",
        "record with validation examples (`assay record --validation 0.1`; in your own loop call recorder.validation(logits, labels) after every epoch)",
    )
    CHECKPOINTS = "checkpoints", "record with checkpoints 'every' or 'last', and score together with model and data"
    FEATURES = (
        "features",
        "score together with what they are made of: the data (a run that `assay record` made, or loop= for your own), rows given by inputs=, or "
        "a run that kept a model",
    )
    GAME = "game", "score together with the data, on which a learner is then trained again and again, as for features"
    HELD_OUT = (
        "held_out",
        "record with validation examples (`assay record --validation 0.1`), give targets={'validation': (inputs, labels)} for your own loop, or "
        "gather_inputs(..., held_out={'validation': (inputs, labels)}) for data in memory",
    )
    STEPS = "steps", "record with checkpoints 'every' or 'last', and score together with model, data and optimizer"

    how: str

    def __new__(cls, value: str, how: str) -> "Need":
        member = object.__new__(cls)
        member._value_ = value
        member.how = how
        return member


EPOCH_NEEDS = frozenset(
    {
        Need.TARGET_PROBS,
        Need.MARGINS,
        Need.LOSSES,
        Need.CORRECT,
        Need.ENTROPIES,
        Need.ERROR_NORMS,
        Need.TOP_PROBS,
        Need.SECOND_PROBS,
        Need.LOGITS,
    }
)
"""The needs that exist once per epoch and example."""

CLASS_NEEDS = EPOCH_NEEDS - {Need.LOSSES} | {Need.LABELS, Need.MEAN_PROBS, Need.VALIDATION_LOSSES}
"""The needs that exist only where each example has a class."""

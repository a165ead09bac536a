"""Confident learning: from a run's probabilities to the joint distribution of given and true labels."""

from pathlib import Path

import torch

from ..core.arguments import checked_arguments
from ..core.confident import ConfidentJoint
from ..core.errors import MissingEvidence, UsageError
from ..core.evidence import Evidence
from ..core.needs import Need
from ..core.passes import in_sample
from ..core.wrong_labels import ClassCount
from ..maths import draws
from ..maths.confident import confident_classes, confident_counts, confident_pairs, find, thresholds, wrong_intervals
from ..runs.run import Run
from .evidence import gather_together
from .models import members_of
from .plan import folds_of


@checked_arguments
def confident_joint(run: str | Path | Run | Evidence) -> ConfidentJoint:
    """How given and true labels are distributed together, and so how many labels are wrong, from the mean probabilities over the recorded epochs.

        joint = assay.confident_joint("runs/digits-folds")
        decision = assay.choose("runs/digits-folds", "confident_learning:by=both")

    The examples that reach the mean probability of a class over those with its label are counted by given and by that class, and the counts scaled to the
    numbers of the given labels. The probabilities should be of models that were not trained on the example: a recording by folds, or predictions given to
    `from_probs` as out of fold, out of bag or held out. Of others a warning stands in the result.

    The 95 % interval of the number of wrong labels is over the draw of examples (bootstrap), given the probabilities. Where classes overlap, right labels of unclear
    examples are counted too, and the count is too large, whatever the interval (`maths.confident.wrong_intervals`); `assay.count_wrong` is the other count.

    Args:
        run: Folder of a run, or an open run; or evidence in memory.

    Raises:
        MissingEvidence: The run kept no mean probabilities, examples have no class, or an example was in no epoch.
        RunError: The run is absent or damaged.
    """
    if isinstance(run, Evidence):
        evidence, names, made_of = run, tuple(map(str, range(run.classes))), "probabilities in memory"
    else:
        opened = run if isinstance(run, Run) else Run(run)
        if opened.task != "classes":
            raise MissingEvidence(
                f"{opened.folder} recorded {opened.classes_in_words} example, and a joint of given and true labels is one of classes; leave it out."
            )
        evidence, names = gather_together(members_of(opened)), tuple(opened.class_names)
        made_of = (
            f"{opened.epochs} recorded epochs of a model that was trained on the examples"
            if opened.passes is None
            else opened.passes.summary(opened.epochs, folds_of(opened))
        )
    view = evidence.narrow("confident learning", frozenset({Need.LABELS, Need.MEAN_PROBS}))
    probs, labels = view.mean_probs.to(torch.float64), view.labels
    bounds = thresholds(probs, labels)
    confident = confident_classes(probs, bounds, labels)
    counts = confident_pairs(confident, labels, len(names))
    total, rows = wrong_intervals(probs, labels, draws.integer(0, "count of wrong labels by the confident joint"))
    sizes = labels.bincount(minlength=len(names)).tolist()
    return ConfidentJoint(
        joint=confident_counts(confident, labels, len(names)) / len(labels),
        thresholds=bounds,
        counts=counts,
        class_names=names,
        examples=len(labels),
        confident=int((confident >= 0).sum()),
        made_of=made_of,
        warnings=in_sample(view.passes),
        low=float(total[1]),
        high=float(total[2]),
        by_class=tuple(ClassCount(name, size, *row) for name, size, row in zip(names, sizes, rows.tolist(), strict=True)),
        found=int(find(probs, labels, -view.ids.ranks).sum()),
    )


def joint_if_held_out(run: Run) -> ConfidentJoint | None:
    """The joint of a run whose examples were predicted by models that were not trained on them; None of other runs, and where there is none to give."""
    if run.task != "classes" or run.passes is None or not run.passes.unseen:
        return None
    try:
        return confident_joint(run)
    except (MissingEvidence, UsageError):
        # What only shows the count beside other things goes without.
        return None

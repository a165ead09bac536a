"""`ReportData`: everything that a report shows, already computed. The page computes nothing."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from .confident import ConfidentJoint
from .curve import Curve
from .decision import Decision
from .duplicates import DuplicateGroups
from .errors import UsageError, listed
from .explanation import Explanation
from .ids import Ids
from .lineage import Lineage
from .method_comparison import ComparedMethod
from .probe import Probe
from .scores import Scores
from .trial import Cleaning, Detection, Verdict
from .wrong_labels import WrongCount


@dataclasses.dataclass(frozen=True, eq=False)
class ShownExamples:
    """The examples that the page shows individually; the dataset may hold many more.

    Attributes:
        ids: Ids of the shown examples, in the order that the page starts with.
        given: Given class of each; None where examples have no class.
        predicted: Class that the model predicts for each, by the rule named in `ReportData.facts`; None if unknown.
        true: True class of each, where the truth is known; else None.
        pictures: uint8 images (shown, channels, height, width); None for data that has no pictures. The page shows them as thumbnails.
        rows: For tables, the original cells as text, one tuple per example; else None.
        columns: Names of the cells in `rows`.
        predicted_probs: Probability of the predicted class, in [0, 1], by the same rule; None if unknown.
        damaged: Whether the image of each was damaged on purpose; None where none were.
    """

    ids: Ids
    given: Int[Tensor, " shown"] | None = None
    predicted: Int[Tensor, " shown"] | None = None
    true: Int[Tensor, " shown"] | None = None
    pictures: Tensor | None = None
    rows: tuple[tuple[str, ...], ...] | None = None
    columns: tuple[str, ...] = ()
    predicted_probs: Float[Tensor, " shown"] | None = None
    damaged: Bool[Tensor, " shown"] | None = None

    def __post_init__(self):
        _per_example("given labels", self.given, len(self))
        _per_example("predicted labels", self.predicted, len(self))
        _per_example("true labels", self.true, len(self))
        _per_example("predicted probabilities", self.predicted_probs, len(self))
        _per_example("marks of damaged images", self.damaged, len(self))
        _per_example("pictures", self.pictures, len(self), axes=4)
        if self.pictures is not None and self.pictures.dtype != torch.uint8:
            raise UsageError(f"Pictures are {self.pictures.dtype}; give them as uint8, 0 to 255.")
        if self.rows is None:
            return
        if len(self.rows) != len(self):
            raise UsageError(f"{len(self)} examples are shown, but there are {len(self.rows)} rows of cells; give one row each.")
        for id_, row in zip(self.ids, self.rows, strict=True):
            if len(row) != len(self.columns):
                raise UsageError(
                    f"Example {id_} has {len(row)} cells under {len(self.columns)} columns; give one cell per column."
                )

    def __len__(self) -> int:
        return len(self.ids)


@dataclasses.dataclass(frozen=True, eq=False)
class DataMap:
    """Training dynamics of each shown example (Swayamdipta et al. 2020), in the order of `ShownExamples.ids`.

    Attributes:
        confidence: Mean over epochs of the probability of the given label, in [0, 1].
        variability: Standard deviation over epochs of the same, in [0, 0.5].
        correctness: Fraction of epochs in which the given label is predicted, in [0, 1].
    """

    confidence: Float[Tensor, " shown"]
    variability: Float[Tensor, " shown"]
    correctness: Float[Tensor, " shown"]

    def __post_init__(self):
        for name, most in (("confidence", 1.0), ("variability", 0.5), ("correctness", 1.0)):
            values = getattr(self, name)
            _per_example(name, values, len(self.confidence))
            outside = ~((values >= 0) & (values <= most + 1e-6))
            if bool(outside.any()):
                at = int(outside.nonzero()[0])
                raise UsageError(f"The {name} at position {at} is {float(values[at])}; the data map needs 0 to {most:g}.")


@dataclasses.dataclass(frozen=True, eq=False)
class Trajectories:
    """Probability of the given label by epoch, for each shown example, in the order of `ShownExamples.ids`.

    Attributes:
        epochs: Number of each recorded epoch, increasing.
        target_probs: In [0, 1]; NaN in an epoch that did not visit the example, where the line has a gap.
        noun: `epoch`, or `pass` where they repeat one thing.
    """

    epochs: tuple[int, ...]
    target_probs: Float[Tensor, "shown epochs"]
    noun: str = "epoch"

    def __post_init__(self):
        _per_example("trajectories", self.target_probs, len(self.target_probs), axes=2)
        if self.target_probs.shape[1] != len(self.epochs):
            raise UsageError(f"Trajectories of {self.target_probs.shape[1]} values do not fit {len(self.epochs)} epochs.")
        outside = (self.target_probs < 0) | (self.target_probs > 1 + 1e-6)
        if bool(outside.any()):
            at, epoch = outside.nonzero()[0].tolist()
            raise UsageError(
                f"Position {at} has probability {float(self.target_probs[at, epoch])} in epoch {self.epochs[epoch]}; "
                "give probabilities of 0 to 1."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Histogram:
    """How one score is distributed over all scored examples, shown or not.

    Attributes:
        title: Title of the score, one of `ReportData.scores`.
        edges: Bin edges, increasing, in the unit of the score.
        counts: How many examples fall into each bin.
        wrong: How many of them have a given label that is known to be wrong; None where the truth is not known.
    """

    title: str
    edges: Float[Tensor, " bins_and_one"]
    counts: Int[Tensor, " bins"]
    wrong: Int[Tensor, " bins"] | None = None

    def __post_init__(self):
        if self.counts.ndim != 1 or self.edges.shape != (len(self.counts) + 1,) or not bool((self.edges.diff() > 0).all()):
            raise UsageError(f"The histogram of {self.title} needs one increasing edge more than its {len(self.counts)} counts.")
        if self.wrong is not None and (self.wrong.shape != self.counts.shape or bool((self.wrong > self.counts).any())):
            raise UsageError(f"The histogram of {self.title} counts more wrong labels than examples in a bin, or in other bins.")


@dataclasses.dataclass(frozen=True, eq=False)
class Agreement:
    """How alike methods rank the examples.

    Attributes:
        titles: Titles of the scores compared.
        correlations: Rank correlation of each with each, in [-1, 1], when the most suspect or hardest stands first in both;
            NaN where a method gives every example the same value.
        measure: Name of the rank correlation.
        low: Lower ends of the 95 % intervals of the correlations, over the draw of examples; None where they are not given, like the next two.
        high: Upper ends.
        overlaps: Part of the first `budget` examples of one that are among those of the other, in [0, 1].
        budget: How many of the first examples are held against each other.
        examples: How many examples all of them scored.
    """

    titles: tuple[str, ...]
    correlations: Float[Tensor, "titles titles"]
    measure: str = "Spearman rank correlation"
    low: Float64[Tensor, "titles titles"] | None = None
    high: Float64[Tensor, "titles titles"] | None = None
    overlaps: Float64[Tensor, "titles titles"] | None = None
    budget: int = 0
    examples: int = 0

    def __post_init__(self):
        n = len(self.titles)
        if self.correlations.shape != (n, n):
            raise UsageError(f"{n} methods cannot agree by a table of shape {tuple(self.correlations.shape)}.")
        for what in ("low", "high", "overlaps"):
            values = getattr(self, what)
            if values is not None and (values.shape != (n, n) or not 1 <= self.budget <= self.examples):
                raise UsageError(
                    f"{n} methods have no {what} of shape {tuple(values.shape)} at {self.budget} of {self.examples} examples."
                )

    @property
    def pairs(self) -> list[tuple[str, str, float, float, float, float]]:
        """Every two methods with correlation, lower and upper end, and overlap, the most alike first; empty where intervals are not given."""
        if self.low is None or self.high is None or self.overlaps is None:
            return []
        parts = [part.tolist() for part in (self.correlations, self.low, self.high, self.overlaps)]
        found = [
            (one, other, *(part[i][j] for part in parts))
            for i, one in enumerate(self.titles)
            for j, other in enumerate(self.titles)
            if i < j
        ]
        # What has no correlation stands last.
        return sorted(found, key=lambda pair: -pair[2] if pair[2] == pair[2] else 2.0)  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True, eq=False)
class ShownDuplicates:
    """Groups of near duplicates that the page shows side by side.

    Attributes:
        found: All groups that were found.
        shown: The members that are shown, group by group.
        groups: Number of the group of each of these in `found`, the same for the members of one group that stand side by side.
        distances: Distance of each to the nearest other of its group.
    """

    found: DuplicateGroups
    shown: ShownExamples
    groups: tuple[int, ...]
    distances: tuple[float, ...]

    def __post_init__(self):
        if not len(self.shown) == len(self.groups) == len(self.distances):
            raise UsageError(
                f"{len(self.shown)} members do not go with {len(self.groups)} groups and {len(self.distances)} distances."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class EmbeddingMap:
    """Shown examples in the plane in which their features vary most (principal components).

    Attributes:
        positions: Position of each point in `ShownExamples.ids`.
        across: First component of each.
        up: Second component.
        explained: Part of the variance of the features that each of both components has, in [0, 1].
        features: Which features, in words.
    """

    positions: Int[Tensor, " points"]
    across: Float64[Tensor, " points"]
    up: Float64[Tensor, " points"]
    explained: tuple[float, float]
    features: str

    def __post_init__(self):
        for name in ("across", "up"):
            values = getattr(self, name)
            if values.shape != self.positions.shape or not bool(values.isfinite().all()):
                raise UsageError(
                    f"{len(self.positions)} points of a map need as many finite numbers {name}, not {tuple(values.shape)}."
                )


@dataclasses.dataclass(frozen=True, eq=False)
class TopExamples:
    """The examples at one end of a score.

    Attributes:
        ids: The most extreme first.
        values: Value of each.
        over_time: Cumulative value of each by the end of each epoch of `Influence.epochs`; None for values that are not sums over epochs.
    """

    ids: Ids
    values: Float64[Tensor, " extremes"]
    over_time: Float64[Tensor, "epochs extremes"] | None = None

    def __post_init__(self):
        if self.values.shape != (len(self.ids),):
            raise UsageError(f"{len(self.ids)} extreme examples cannot carry values of shape {tuple(self.values.shape)}.")


@dataclasses.dataclass(frozen=True, eq=False)
class Influence:
    """The examples that harm most and help most, by a score whose sign has a meaning.

    Attributes:
        title: Title of the score, one of `ReportData.scores`.
        target: The number whose change the score predicts; empty for methods without a target.
        harmful: The examples that harm most.
        helpful: The examples that help most.
        harming: How many of all scored examples are predicted to harm; None for scores that only rank.
        helping: How many are predicted to help; None for scores that only rank.
        epochs: Numbers of the epochs of values over time, increasing; empty for values that are no sums over epochs.
        wrong: Mean cumulative value of the known wrong labels by the end of each epoch; None where the truth is not known.
        right: The same of the right labels.
        norms: Norm of the adjoint before each epoch and after the last epoch, as (epoch, norm), the epochs increasing; empty for
            methods that carry none.
    """

    title: str
    target: str
    harmful: TopExamples
    helpful: TopExamples
    harming: int | None = None
    helping: int | None = None
    epochs: tuple[int, ...] = ()
    wrong: Float64[Tensor, " epochs"] | None = None
    right: Float64[Tensor, " epochs"] | None = None
    norms: tuple[tuple[int, float], ...] = ()

    def __post_init__(self):
        for what, rows in (
            ("harmful examples", self.harmful.over_time),
            ("helpful examples", self.helpful.over_time),
            ("wrong labels", self.wrong),
            ("right labels", self.right),
        ):
            if rows is not None and (len(rows) != len(self.epochs) or not len(rows)):
                raise UsageError(f"{self.title}: values of {what} over {len(rows)} epochs do not fit {len(self.epochs)} epochs.")
        if (self.wrong is None) != (self.right is None):
            raise UsageError(f"{self.title}: wrong and right labels over time are compared; give both or neither.")
        if any(not norm >= 0 for _, norm in self.norms):
            raise UsageError(f"{self.title}: a norm of the adjoint is not a number of 0 or more; leave norms out.")


@dataclasses.dataclass(frozen=True, eq=False)
class ScoreComparison:
    """Two scores of the same examples compared: an approximation and the exact value, or a prediction and the measurement.

    A value above 0 means that the example helps. The numbers are over all examples that both scored; the points may be fewer.

    Attributes:
        title: Title of the score asked about.
        reference: Title of the score that it is compared with.
        target: The number whose change both scores give.
        measured: Whether the reference was measured by training again.
        same: Whether both scores estimate the same quantity, so that their values should be equal.
        ids: The examples that are drawn as points.
        values: Values of the score asked about, for each point.
        references: Values of the reference, for each point.
        wrong: Whether the given label of each point is known to be wrong; None where the truth is not known.
        examples: How many examples the numbers are over.
        tau: Kendall's rank correlation, tau-b; this and the others are NaN where a score has no spread.
        spearman: Spearman's rank correlation.
        pearson: Pearson's correlation.
        slope: Slope of the least-squares line of the reference on the score.
    """

    title: str
    reference: str
    target: str
    measured: bool
    same: bool
    ids: Ids
    values: Float64[Tensor, " points"]
    references: Float64[Tensor, " points"]
    wrong: Bool[Tensor, " points"] | None
    examples: int
    tau: float
    spearman: float
    pearson: float
    slope: float

    def __post_init__(self):
        for what in ("values", "references", "wrong"):
            numbers = getattr(self, what)
            if numbers is not None and numbers.shape != (len(self.ids),):
                raise UsageError(
                    f"{self.title} against {self.reference}: {what} of shape {tuple(numbers.shape)} do not fit {len(self.ids)} points."
                )
        if len(self.ids) > self.examples:
            raise UsageError(f"{self.title} against {self.reference}: {len(self.ids)} points of {self.examples} examples.")


@dataclasses.dataclass(frozen=True, eq=False)
class LearningCurve:
    """How good the recorded model was on one part of the data.

    Attributes:
        part: `training`, `validation`, `test`, or `held out` for training examples that models predict which were not trained on them.
        examples: How many examples the part has.
        epochs: Number of each epoch after which it was measured, increasing, from 0.
        accuracy: Fraction of the given labels that are predicted, for each; None if unknown. In training over the examples that an epoch visited.
        loss: Mean cross-entropy in nats, for each; None if unknown.
        over: Of passes that are no epochs of a training, whose only values these are: `in one pass`, or of which they are the mean; empty of epochs.
    """

    part: str
    examples: int
    epochs: tuple[int, ...]
    accuracy: Float64[Tensor, " epochs"] | None = None
    loss: Float64[Tensor, " epochs"] | None = None
    over: str = ""

    def __post_init__(self):
        if not self.epochs or (self.accuracy is None and self.loss is None):
            raise UsageError(f"The {self.part} curve has nothing to show; leave it out.")
        for what in ("accuracy", "loss"):
            _per_example(f"{self.part} {what}", getattr(self, what), len(self.epochs))
        if self.accuracy is not None and bool(((self.accuracy < 0) | (self.accuracy > 1)).any()):
            raise UsageError(f"A {self.part} accuracy is outside 0..1; give fractions.")


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Examples with one given label for which the model predicts another class.

    Attributes:
        given: Class number of the given label.
        predicted: Class number that the model predicts.
        examples: How many there are.
        touched: How many of them the decision touches.
    """

    given: int
    predicted: int
    examples: int
    touched: int


@dataclasses.dataclass(frozen=True, eq=False)
class ClassCounts:
    """Who is hit: counts by given class, over all examples, shown or not.

    Attributes:
        examples: How many examples have each given label.
        against: For how many of them the model predicts another class; None if that is unknown.
        dropped: How many of them the decision drops; None without a decision, like the next two.
        relabelled: How many it gives another label.
        weighted: How many it weights.
        wrong: How many of the given labels are known to be wrong; None where the truth is not known.
        lost: How many right labels the decision drops or changes; None without a decision and where the truth is not known.
        confusions: The commonest pairs of given and predicted class, the commonest first.
        pairs: How many such pairs there are in all.
        kept: How many examples of each class the decision keeps in the training set, relabelled and weighted ones too; None without a decision.
        weights: Sum of their weights; None without a decision.
    """

    examples: Int[Tensor, " classes"]
    against: Int[Tensor, " classes"] | None = None
    dropped: Int[Tensor, " classes"] | None = None
    relabelled: Int[Tensor, " classes"] | None = None
    weighted: Int[Tensor, " classes"] | None = None
    wrong: Int[Tensor, " classes"] | None = None
    lost: Int[Tensor, " classes"] | None = None
    confusions: tuple[Confusion, ...] = ()
    pairs: int = 0
    kept: Int[Tensor, " classes"] | None = None
    weights: Float64[Tensor, " classes"] | None = None

    def __post_init__(self):
        for what in ("against", "dropped", "relabelled", "weighted", "wrong", "lost", "kept"):
            counts = getattr(self, what)
            if counts is not None and (counts.shape != self.examples.shape or bool((counts > self.examples).any())):
                raise UsageError(f"More examples of a class are {what} than there are, or of other classes; count again.")

    @property
    def before(self) -> Float64[Tensor, " classes"]:
        """Share of each class among all examples."""
        return self.examples.double() / max(1, int(self.examples.sum()))

    @property
    def after(self) -> Float64[Tensor, " classes"] | None:
        """Share of each class, by weight, in what the decision leaves to train on; None without a decision and where it leaves nothing."""
        return None if self.weights is None or not float(self.weights.sum()) > 0 else self.weights / self.weights.sum()


@dataclasses.dataclass(frozen=True)
class Provenance:
    """One artefact behind the page: what it is, its fingerprint, and where it comes from."""

    noun: str
    fingerprint: str
    lineage: Lineage | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class ReportData:
    """Everything that one report shows. A part that is None or empty leaves its section out.

    Attributes:
        title: Heading of the page.
        class_names: One name per class, in the order of the class numbers.
        examples: How many examples the dataset has, shown or not.
        shown: The examples that the page shows individually.
        picked: How the shown examples were picked, one sentence; needed unless all are shown.
        facts: What was run, in words: data, net, recipe, machine, seeds, seconds, and by which rule labels are predicted.
        scores: One per method, of all the examples that it scored; the first is the one that the page opens with.
        decision: What is done with each example; covers every shown one.
        data_map: Training dynamics of the shown examples.
        trajectories: Probability of the given label by epoch, of the shown examples.
        histograms: At most one per score.
        agreement: Rank correlations between the scores.
        influences: At most one per score: the examples that harm and help most.
        comparisons: Scores compared with exact or measured ones of the same target.
        curves: Accuracy against how many of the worst are left out.
        explanations: The training examples behind single predictions.
        verdict: Whether the decision was right, if examples were retrained.
        detections: How well each score finds known wrong labels, where there is no verdict to say so.
        cleaning: The decision against the known truth, where there is no verdict to say so.
        origins: The artefacts behind the page.
        notes: What a reader must know besides, one sentence each.
        summary: What to do next, whom it concerns, and how sure that is: pairs of a heading and a text for readers who know none of our words.
        learning: How good the recorded model was: training first, then what was held out.
        by_class: Who is hit, by class.
        dataset: Fingerprint of the dataset, which the marks of a reviewer carry; without it the page takes none.
        compared: How well each score finds the known wrong labels among those that it scored, with an interval and its misses.
        counted: How many labels seem to be wrong; None where that cannot be counted.
        probes: Probes of this recording: which method finds labels that were flipped on purpose.
        duplicates: Groups of examples that are nearly the same.
        embedding: Shown examples in the plane in which their features vary most.
        damages: How well each score finds the images that were damaged on purpose.
        damaged: How many these are, and how many of them the decision acts on (0 without one); None where none were.
        joint: The confident joint with its count of wrong labels, of passes by models that were not trained on the example; None of others.
    """

    title: str
    class_names: tuple[str, ...]
    examples: int
    shown: ShownExamples
    picked: str = ""
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    scores: tuple[Scores, ...] = ()
    decision: Decision | None = None
    data_map: DataMap | None = None
    trajectories: Trajectories | None = None
    histograms: tuple[Histogram, ...] = ()
    agreement: Agreement | None = None
    influences: tuple[Influence, ...] = ()
    comparisons: tuple[ScoreComparison, ...] = ()
    curves: tuple[Curve, ...] = ()
    explanations: tuple[Explanation, ...] = ()
    verdict: Verdict | None = None
    detections: tuple[Detection, ...] = ()
    cleaning: Cleaning | None = None
    origins: tuple[Provenance, ...] = ()
    notes: tuple[str, ...] = ()
    summary: tuple[tuple[str, str], ...] = ()
    learning: tuple[LearningCurve, ...] = ()
    by_class: ClassCounts | None = None
    dataset: str = ""
    compared: tuple[ComparedMethod, ...] = ()
    counted: WrongCount | None = None
    probes: tuple[Probe, ...] = ()
    duplicates: ShownDuplicates | None = None
    embedding: EmbeddingMap | None = None
    damages: tuple[ComparedMethod, ...] = ()
    damaged: tuple[int, int] | None = None
    joint: ConfidentJoint | None = None

    def __post_init__(self):
        """Refuse parts that do not belong together.

        Raises:
            UsageError: A part has another number of examples, a class without a name, or a title that no score has.
            Mismatch: The decision or a score does not cover a shown example, or a top example is not shown.
        """
        n = len(self.shown)
        if n > self.examples:
            raise UsageError(f"{n} examples cannot be shown of {self.examples}.")
        if n < self.examples and not self.picked:
            raise UsageError(f"{n} of {self.examples} examples are shown; say in `picked` how they were picked.")
        if self.by_class is not None and len(self.by_class.examples) != len(self.class_names):
            raise UsageError(f"Counts of {len(self.by_class.examples)} classes do not fit {len(self.class_names)} class names.")
        for what in ("given", "predicted", "true"):
            labels = getattr(self.shown, what)
            wrong = (labels < 0) | (labels >= len(self.class_names)) if labels is not None else torch.zeros(0, dtype=torch.bool)
            if bool(wrong.any()):
                ids = self.shown.ids.take(wrong)
                raise UsageError(f"{len(ids)} {what} labels have no class name; ids {listed(ids, len(ids))}. Name every class.")
        if self.data_map is not None and len(self.data_map.confidence) != n:
            raise UsageError(f"The data map has {len(self.data_map.confidence)} examples, {n} are shown.")
        if self.trajectories is not None and len(self.trajectories.target_probs) != n:
            raise UsageError(f"There are trajectories of {len(self.trajectories.target_probs)} examples, {n} are shown.")
        if self.embedding is not None and len(self.embedding.positions) and int(self.embedding.positions.max()) >= n:
            raise UsageError(
                f"The map has a point at position {int(self.embedding.positions.max())}, and {n} examples are shown."
            )
        titles = [scores.title for scores in self.scores]
        if len(set(titles)) != len(titles):
            raise UsageError(f"Two scores have the same title among {', '.join(titles)}; give each other options.")
        for histogram in self.histograms:
            if histogram.title not in titles:
                raise UsageError(f"The histogram of {histogram.title} has no scores beside it; there are {', '.join(titles)}.")
        for influence in self.influences:
            if influence.title not in titles:
                raise UsageError(f"The influence of {influence.title} has no scores beside it; there are {', '.join(titles)}.")
            for extremes in (influence.harmful, influence.helpful):
                self.shown.ids.positions(extremes.ids, "the shown examples")
        for comparison in self.comparisons:
            for title in (comparison.title, comparison.reference):
                if title not in titles:
                    raise UsageError(f"The comparison with {title} has no scores beside it; there are {', '.join(titles)}.")
        if self.decision is not None:
            self.decision.ids.positions(self.shown.ids, "the decision")
            if len(self.decision) and int(self.decision.labels.max()) >= len(self.class_names):
                raise UsageError(f"The decision relabels to class {int(self.decision.labels.max())}, which has no name.")
        for scores in self.scores:
            _all_ids(scores).positions(self.shown.ids, f"scores of {scores.title}")
        if self.verdict is not None and (self.detections or self.cleaning is not None):
            raise UsageError("The verdict carries detections and cleaning already; leave those of the report empty.")

    @property
    def opening(self) -> list[int]:
        """Positions of the shown examples in the order in which the page opens with them: what the decision acts on stands first.

        Among those, and among the rest, the most suspect or hardest by the score that the decision was made by, else by the first.
        """
        n, decision = len(self.shown), self.decision
        place = torch.arange(n)
        if decision is not None:
            by = next((one for one in self.scores if decision.title.endswith(f" by {one.title}")), next(iter(self.scores), None))
        else:
            by = next(iter(self.scores), None)
        if by is not None:
            ranks = dict(zip(by.ids, by.ranks().tolist(), strict=True))
            place = torch.tensor([ranks.get(id_, len(ranks) + 1) for id_ in self.shown.ids], dtype=torch.int64)
        if decision is None or not n:
            return place.argsort(stable=True).tolist()
        taken = taken_by(decision, self.scores)
        if taken is not None:
            turns = {id_: turn for turn, id_ in enumerate(taken)}
            place = torch.tensor([turns.get(id_, len(turns) + int(place[i])) for i, id_ in enumerate(self.shown.ids)])
        else:
            touched = decision.touched[decision.ids.positions(self.shown.ids, "the decision")]
            place = place + torch.where(touched, 0, int(place.max()) + 1)
        return place.argsort(stable=True).tolist()

    @property
    def found(self) -> Sequence[Detection]:
        """The detections, from the verdict or from `detections`."""
        return self.verdict.detections if self.verdict is not None else self.detections

    @property
    def cleaned(self) -> Cleaning | None:
        """The cleaning, from the verdict or from `cleaning`."""
        return self.verdict.cleaning if self.verdict is not None else self.cleaning


def taken_by(decision: Decision, scores: Sequence[Scores]) -> Ids | None:
    """The few examples that a decision keeps, in its order; None where it keeps most, has no order, or a score that is shown gave it."""
    if decision.order is None or 2 * decision.budget > len(decision):
        return None
    return None if any(decision.title.endswith(f" by {one.title}") for one in scores) else decision.order


def _all_ids(scores: Scores) -> Ids:
    return Ids([*scores.ids, *scores.unscored]) if len(scores.unscored) else scores.ids


def _per_example(what: str, values: Tensor | None, examples: int, axes: int = 1) -> None:
    if values is not None and (values.ndim != axes or len(values) != examples):
        raise UsageError(f"{examples} examples are shown, but {what} have shape {tuple(values.shape)}; give one each.")

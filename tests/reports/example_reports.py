"""Exhibits made in the test: 2,000 pictures, planted wrong labels, thirteen scores that really were computed from trajectories."""

import dataclasses
import math

import torch

from assay.core.confident import ConfidentJoint
from assay.core.curve import NONE, WORST, Curve, Removal
from assay.core.curve import RANDOM as AT_RANDOM
from assay.core.decision import Action, Decision
from assay.core.duplicates import DuplicateGroups
from assay.core.ids import Ids
from assay.core.lineage import Lineage
from assay.core.method_comparison import ComparedMethod
from assay.core.probe import Probe, ProbedMethod, ThresholdExamples
from assay.core.report_data import (
    Agreement,
    ClassCounts,
    DataMap,
    EmbeddingMap,
    Histogram,
    Influence,
    Provenance,
    ReportData,
    ScoreComparison,
    ShownDuplicates,
    ShownExamples,
    TopExamples,
    Trajectories,
)
from assay.core.scores import CHANGE, Direction, Scores
from assay.core.trial import ALL, KEPT, RANDOM, Cleaning, Comparison, Detection, Outcome, Verdict
from assay.core.wrong_labels import ClassCount, WrongCount
from assay.maths.planted_counts import PlantedCount

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PROBE = "<img src=x onerror=\"document.title='fired'\"></script><script>document.title='fired'</script>"
"""A class name that would run, were it ever read as markup."""

METHODS = (
    ("aum", Direction.LOW_IS_SUSPECT, "logit margin"),
    ("confidence", Direction.LOW_IS_SUSPECT, "probability"),
    ("loss", Direction.HIGH_IS_SUSPECT, "nats"),
    ("correctness", Direction.LOW_IS_SUSPECT, "fraction of epochs"),
    ("el2n:at=10", Direction.HIGH_IS_SUSPECT, "probability distance"),
    ("dual", Direction.HIGH_IS_HARD, "probability"),
    ("dyn_unc", Direction.HIGH_IS_HARD, "probability"),
    ("tdds", Direction.HIGH_IS_HARD, "nats"),
    ("variability", Direction.HIGH_IS_HARD, "probability"),
    ("forgetting", Direction.HIGH_IS_HARD, "events"),
    ("entropy", Direction.HIGH_IS_HARD, "nats"),
    ("margin", Direction.LOW_IS_HARD, "probability"),
    ("least_confidence", Direction.HIGH_IS_HARD, "probability"),
)


def pictures(labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Smooth colour fields with a shape by class: they compress as photographs do."""
    n, side = len(labels), 32
    coarse = torch.rand(n, 3, 6, 6, generator=generator)
    fields = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False)
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    angle = labels.view(-1, 1, 1) * math.pi / 10
    stripe = (torch.sin(9 * (x * angle.cos() + y * angle.sin())) > 0).float() * (x**2 + y**2 < 0.6)
    noise = 0.06 * torch.randn(n, 3, side, side, generator=generator)
    return ((0.65 * fields + 0.35 * stripe[:, None] + noise).clamp(0, 1) * 255).to(torch.uint8)


def report(n: int = 2000, epochs: int = 30, total: int = 60_000, classes: tuple[str, ...] = CLASSES) -> ReportData:
    """A whole report of pictures: a tenth of the given labels is wrong."""
    g = torch.Generator().manual_seed(0)
    true = torch.randint(len(classes), (n,), generator=g)
    wrong = torch.rand(n, generator=g) < 0.1
    given = torch.where(wrong, (true + 1 + torch.randint(len(classes) - 1, (n,), generator=g)) % len(classes), true)
    ids = Ids(torch.randperm(total, generator=g)[:n])
    hardness = torch.rand(n, generator=g) ** 2
    pace = torch.linspace(-2, 6, epochs)[None] - 5 * hardness[:, None] + 0.9 * torch.randn(n, epochs, generator=g)
    probs = torch.sigmoid(torch.where(wrong[:, None], -3.2 + 0.3 * pace, pace)).to(torch.float64)
    confidence, variability = probs.mean(1), probs.std(1, unbiased=False)
    correctness = (probs > 0.5).double().mean(1)
    noise = lambda spread: spread * torch.randn(n, generator=g, dtype=torch.float64)  # noqa: E731
    drift = probs.diff(dim=1).abs().mean(1)
    columns = (
        torch.logit(probs, eps=1e-6).mean(1),
        confidence,
        -probs.clamp_min(1e-6).log().mean(1),
        correctness,
        math.sqrt(2) * (1 - probs[:, 10]),
        variability * (1 - confidence),
        variability,
        drift,
        variability + noise(0.01),
        ((probs[:, :-1] > 0.5) & (probs[:, 1:] <= 0.5)).double().sum(1),
        -(probs * probs.log() + (1 - probs) * (1 - probs).log()).mean(1),
        (2 * probs - 1).abs().mean(1) + noise(0.02),
        1 - torch.maximum(probs, 1 - probs).mean(1) + noise(0.01),
    )
    lineage = Lineage("0f3c9a1be2d47765", {"run": "9b1d22c07e55f310"}, "0.1.0", 0, "cpu", 12.25)
    scores = tuple(
        Scores(ids, values.double(), title.split(":")[0], {}, title, direction, unit, lineage=lineage)
        for values, (title, direction, unit) in zip(columns, METHODS, strict=True)
    )
    dropped = scores[0].ranks() <= n // 10
    relabelled = (scores[2].ranks() <= n // 40) & ~dropped
    actions = torch.where(dropped, int(Action.DROP), torch.where(relabelled, int(Action.RELABEL), int(Action.KEEP)))
    decision = Decision(
        ids,
        actions,
        torch.where(relabelled, true, -1),
        torch.where(dropped, 0.0, 1.0).double(),
        tuple(
            {0: f"rank {r} by aum is among the worst {n // 10}", 1: "kept: not among the worst", 2: "the model is sure"}[a]
            for r, a in zip(scores[0].ranks().tolist(), actions.tolist(), strict=True)
        ),
        "bottom_k",
        {},
        "bottom_k:keep=0.9 by aum",
        lineage,
    )
    order = torch.stack([one.ranks().double() for one in scores])
    found = tuple(_detection(one, wrong) for one in scores)
    gains = {KEPT: 0.021, RANDOM: 0.0, ALL: 0.002}
    outcomes = tuple(
        Outcome(a, s, 0.871 + gains[a] + 0.004 * s / 5 + 0.002 * ((s * 7 + len(a)) % 5), 0.41, 54_000, 12_660, 31.5)
        for a in gains
        for s in range(5)
    )
    comparisons = (
        Comparison(KEPT, RANDOM, 0.0211, 0.0172, 0.0249, 0.0021, "paired t-test", 5),
        Comparison(KEPT, ALL, 0.0023, -0.0014, 0.0061, 0.31, "paired t-test", 5),
    )
    cleaning = Cleaning(
        int(wrong.sum()), int(decision.touched.sum()), int((decision.touched & wrong).sum()), int(relabelled.sum())
    )
    return ReportData(
        title="CIFAR-10 with one label in ten flipped",
        class_names=classes,
        examples=total,
        picked="the first 1,500 by aum and 500 at random." if n < total else "",
        shown=ShownExamples(ids, given, torch.where(wrong, true, given), true, pictures(true, g)),
        facts={
            "data": "CIFAR-10, 60,000 training examples, 10 % of the labels flipped uniformly",
            "net": "six-convolution CNN, 1.2 million parameters",
            "recipe": "SGD 0.9, one-cycle to 0.1, batch 128, 30 epochs",
            "machine": "2 cores, CPU",
            "seeds": "run 0; retraining 0 to 4",
            "seconds": "412 recorded, 1,980 retrained",
            "predicted": "class with the largest mean probability over all epochs",
        },
        scores=scores,
        decision=decision,
        data_map=DataMap(confidence, variability, correctness),
        trajectories=Trajectories(tuple(range(epochs)), probs),
        histograms=tuple(_histogram(one, wrong) for one in scores),
        agreement=Agreement(tuple(one.title for one in scores), torch.corrcoef(order)),
        verdict=Verdict(
            decision.title, outcomes, comparisons, found, cleaning, {"net": "cnn6", "epochs": 30, "optimizer": "sgd"}
        ),
        origins=(
            Provenance("run", "9b1d22c07e55f310", Lineage("0f3c9a1be2d47765", {}, "0.1.0", 0, "cpu", 412.0)),
            Provenance("scores", scores[0].fingerprint, lineage),
            Provenance("decision", decision.fingerprint, dataclasses.replace(lineage, seed=None)),
        ),
        notes=("The truth was planted and is used by the verdict only.",),
    )


def chosen(made: ReportData, points: int = 1500) -> ReportData:
    """The same report with everything that helps to choose a method: a count, a probe, duplicates, a map of features, what stays of each class."""
    shown, classes, titles = made.shown, made.class_names, [one.title for one in made.scores]
    ids, given, wrong = shown.ids, shown.given, shown.given != shown.true
    by_class = tuple(ClassCount(name, 60, 6.0 - at / 2, 2.0, 9.0) for at, name in enumerate(classes))
    methods = tuple(
        ProbedMethod(
            one,
            0.97 - at / 100,
            0.95 - at / 100,
            0.99 - at / 100,
            0.6,
            0.8,
            at and 0.5**at,
            PlantedCount(190, 150, 240, 0.06, 0.97),
        )
        for at, one in enumerate(titles)
    )
    best = dataclasses.replace(methods[0], adjusted=None)
    found = DuplicateGroups(
        ids.take(range(5)),
        torch.tensor([0, 0, 0, 1, 1]),
        torch.full((5,), 0.25).double(),
        given[:5],
        0.5,
        2.0,
        "inputs, cosine",
        len(ids),
        classes,
    )
    pair = ShownExamples(
        ids.take([0, 1, 3, 4]), given[[0, 1, 3, 4]], true=shown.true[[0, 1, 3, 4]], pictures=shown.pictures[[0, 1, 3, 4]]
    )
    angles = torch.arange(points).double()
    kept = torch.bincount(given[made.decision.kept], minlength=len(classes))
    n = len(titles)
    return dataclasses.replace(
        made,
        agreement=dataclasses.replace(
            made.agreement,
            low=made.agreement.correlations.double() - 0.01,
            high=made.agreement.correlations.double() + 0.01,
            overlaps=torch.full((n, n), 0.25).double(),
            budget=int(wrong.sum()),
            examples=len(ids),
        ),
        by_class=ClassCounts(
            torch.bincount(given, minlength=len(classes)),
            dropped=torch.bincount(given, minlength=len(classes)) - kept,
            kept=kept,
            weights=kept.double(),
        ),
        compared=tuple(ComparedMethod(one.title, True, one.auc, one.auc - 0.01, one.auc, 0.5, 0.5, 17) for one in made.found),
        counted=WrongCount(ids, torch.where(wrong, 0.9, 0.05).double(), 200.0, 150.0, 250.0, by_class),
        joint=ConfidentJoint(
            torch.eye(len(classes)).double() * 0.9 / len(classes) + 0.1 / len(classes) ** 2,
            torch.ones(len(classes)).double(),
            torch.eye(len(classes)).double(),
            classes,
            len(ids),
            1900,
            "held out",
            low=140.0,
            high=230.0,
            by_class=by_class,
        ),
        probes=(
            Probe("confusion", 40, 240, len(ids), 0, (best, *methods[1:]), recall=0.875),
            Probe(
                *("extra_class", 40, 240, len(ids), 0, (best, *methods[1:])),
                threshold=ThresholdExamples(0.5, 320.0, 300.0, 340.0, by_class[:3]),
            ),
        ),
        duplicates=ShownDuplicates(found, pair, (0, 0, 1, 1), (0.25,) * 4),
        embedding=EmbeddingMap(torch.arange(points), angles.cos() * angles, angles.sin() * angles, (0.5, 0.25), "the inputs"),
    )


def table(n: int = 40) -> ReportData:
    """Rows of a table: string ids, no pictures, no truth, no verdict, one method that cannot speak of the last two examples."""
    ids = Ids([f"row-{i:03d}<b>" for i in range(n)])
    values = torch.linspace(0, 1, n, dtype=torch.float64)
    scores = Scores(
        ids.take(range(n - 2)),
        values[:-2],
        "loss",
        {},
        "loss",
        Direction.HIGH_IS_SUSPECT,
        "nats",
        unscored=ids.take([n - 2, n - 1]),
    )
    rows = tuple((str(20 + i), PROBE if i == 3 else "State-gov", f"{i * 100}") for i in range(n))
    return ReportData(
        title="Adult",
        class_names=("<=50K", ">50K"),
        examples=n,
        shown=ShownExamples(ids, torch.arange(n) % 2, rows=rows, columns=("age", "work<i>class", "gain")),
        scores=(scores,),
    )


WARNING = f"The adjoint grows 31-fold over the window {PROBE}: training was unstable."


def influenced(n: int = 200, pictures_too: bool = True) -> ReportData:
    """Four scores that tell harm from help: exact with a warning, an approximation, leave-one-out, and one that only ranks and leaves
    the last two examples out; by two targets and by none."""
    g = torch.Generator().manual_seed(1)
    ids = Ids(torch.randperm(10 * n, generator=g)[:n])
    given = torch.randint(3, (n,), generator=g)
    wrong = torch.arange(n) % 9 == 0
    true = torch.where(wrong, (given + 1) % 3, given)
    steps = (0.002 * torch.randn(3, n, generator=g) + torch.where(wrong, -0.001, 0.001)).double()
    values = steps.sum(0)
    low = Direction.LOW_IS_SUSPECT
    diagnostics = {"adjoint growth": 31.25, "adjoint norms, from the end backwards": [0.5, 1.0, 4.0, 15.625]}
    exact = Scores(
        ids, values, "sgd_influence", {}, "exact", low, CHANGE, by_epoch=steps, diagnostics=diagnostics, warnings=(WARNING,)
    )
    rough = Scores(ids, 3 * values, "sgd_influence", {}, "rough", low, "rank only")
    loo = Scores(ids, 1.1 * values + 0.001, "loo", {}, "loo", low, CHANGE)
    last = Scores(
        ids.take(range(n - 2)), -values[:-2].abs(), "oti", {}, "last", low, "rank only", unscored=ids.take([n - 2, n - 1])
    )
    other = Scores(ids, -values.abs(), "sgd_influence", {}, "of class 3", low, CHANGE)

    def ends(one: Scores, target: str, **more) -> Influence:
        order = one.values.argsort()
        over = lambda place: one.by_epoch.cumsum(0)[:, place] if one.by_epoch is not None else None  # noqa: E731
        harmful, helpful = (TopExamples(one.ids.take(at), one.values[at], over(at)) for at in (order[:10], order.flip(0)[:10]))
        counts = (int((one.values < 0).sum()), int((one.values > 0).sum())) if one.unit == CHANGE else (None, None)
        return Influence(one.title, target, harmful, helpful, *counts, **more)

    def pair(one: Scores, reference: Scores, measured: bool, same: bool) -> ScoreComparison:
        return ScoreComparison(
            one.title,
            reference.title,
            "validation",
            measured,
            same,
            ids,
            one.values,
            reference.values,
            wrong,
            n,
            0.8125,
            0.9,
            0.95,
            1.1,
        )

    sums = steps.cumsum(0)
    training = {"epochs": (0, 1, 2), "wrong": sums[:, wrong].mean(1), "right": sums[:, ~wrong].mean(1)}
    return ReportData(
        title="Influence",
        class_names=("cat", PROBE, "dog"),
        examples=n,
        shown=ShownExamples(ids, given, true=true, pictures=pictures(given, g) if pictures_too else None),
        scores=(exact, rough, loo, last, other),
        influences=(
            ends(exact, "validation", **training, norms=((0, 15.625), (1, 4.0), (2, 1.0), (3, 0.5))),
            ends(rough, "validation"),
            ends(loo, "validation"),
            ends(last, ""),
            ends(other, "class=3"),
        ),
        comparisons=(pair(exact, loo, True, True), pair(rough, loo, True, True), pair(rough, exact, False, False)),
        curves=(curve(),),
    )


def curve(best: int = 10) -> Curve:
    """Accuracy against 1, 10 and 100 removed, three random draws each."""
    removals = [Removal(NONE, 0, 0, 0.90, 0.30, 0.88, 0.35, 1.0)]
    for place, count in enumerate((1, 10, 100)):
        gain = (0.01, 0.03, -0.05)[place]
        removals.append(Removal(WORST, count, 0, 0.90 + gain, 0.30 - gain, 0.88 + gain, 0.35 - gain, 1.0))
        removals += [
            Removal(AT_RANDOM, count, seed, 0.90 - 0.01 * seed, 0.3, 0.88 - 0.01 * seed, 0.35, 1.0) for seed in (1, 2, 3)
        ]
    return Curve("exact", "last", tuple(removals), best, "loss")


def _histogram(one: Scores, wrong: torch.Tensor) -> Histogram:
    edges = torch.linspace(float(one.values.min()), float(one.values.max()), 25, dtype=torch.float64)
    return Histogram(
        one.title, edges, torch.histogram(one.values, edges).hist.long(), torch.histogram(one.values[wrong], edges).hist.long()
    )


def _detection(one: Scores, wrong: torch.Tensor) -> Detection:
    hits = wrong[one.ranks().argsort()].double()
    found = hits.cumsum(0) / hits.sum()
    n, k = len(hits), int(hits.sum())
    at = torch.linspace(0, n - 1, 60).long()
    auc = float((found * (1 - hits)).sum() / (n - k))
    precision = hits.cumsum(0) / torch.arange(1, n + 1)
    curve = ((0.0, 0.0), *(((i + 1) / n, float(found[i])) for i in at.tolist()))
    return Detection(
        one.title,
        auc,
        float((precision * hits).sum() / k),
        float(hits[:k].mean()),
        float(found[n // 5 - 1]),
        one.direction.ranks_suspects,
        curve,
    )

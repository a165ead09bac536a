"""How well do methods rank what leaving an example out really does? The protocol of Hara et al. 2019, section 7.1.

200 training and 200 validation examples of Adult, of MNIST's ones against sevens, or of two groups of 20 Newsgroups, by scikit-learn's
train_test_split (the run's seed, then seed + 1), standardised on the training part. Logistic regression (rate 0.1 / sqrt(step + 1), of
texts 0.01 / sqrt(step + 1), batches of 5; 20 epochs on Adult, 5 on MNIST, 10 on texts; alpha = 1 / (200 C), C by scikit-learn's LogisticRegressionCV) and a ReLU net of 8 and 8 units (rate 0.1, batches of
20, 10 epochs, alpha = 0.001). Binary cross-entropy and alpha/2 |theta|^2 in every example's loss; plain SGD; initial weights by the
run's seed; the order of an epoch by the epoch's number.

Truth: 200 trainings, each with one example's loss at weight 0 (`loo`), against the training on all, by the loss on the validation part.
Kendall's tau and Spearman's rho over all 200 examples; Jaccard overlap of the ten largest and ten smallest together. Scores are turned
so that low means harmful, by the direction that each method declares. Adult's categories are merged as in the released code, 62 inputs.

`DEVIATIONS` says where this is not what the released code does.
"""

import dataclasses
import functools
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import kendalltau, spearmanr
from torch import Tensor, nn

from .. import __version__, methods
from ..cluster.executors import Call, executor, run_all
from ..core.arguments import checked_arguments, checked_fields
from ..core.errors import NumericalError, OutputExists, UnknownName, UsageError
from ..core.fidelity import Agreement, FidelityStudy, Measure, PublishedAgreement, Refused, SeedResult, Truth
from ..core.lineage import fingerprint
from ..data.adult import COLUMNS, cells_of, files_in
from ..data.digits import Digits
from ..data.mnist import MNIST
from ..data.newsgroups import Newsgroups
from ..experiments.estimate import Work, announce
from ..experiments.execution import Execution
from ..experiments.request import Request
from ..experiments.score import served
from ..experiments.trials import TURN
from ..reports.fidelity import render_fidelity
from ..runs.artefacts import finished, load_seed_result, save_seed_result
from ..runs.disk import replace
from ..runs.paths import StudyPaths
from ..runs.retrainings import KeptRetrainings
from ..runs.schema import here
from .folders import told, written
from .own_loop import record
from .replication import numbers_table, owned, write_plan
from .scaling import titled

PROTOCOL = 200
"""Training examples of the protocol, and as many for validation."""
ENDS = 10
"""How many of the largest, and how many of the smallest, Jaccard compares."""
NETS = ("logreg", "dnn")
Regulariser = Literal["losses", "optimizer"]
TRUTH = "loo"
"""The method that trains again without each example."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One dataset and net: how the net is trained.

    Attributes:
        data: `adult`, `mnist`, `newsgroups` or `digits`.
        net: `logreg` or `dnn`.
        decays: Whether the rate is divided by sqrt(step + 1).
        epochs: Number of epochs.
        batch: Largest number of examples in a batch.
        alpha: Strength of the regulariser; None for 1 / (examples C), C by cross-validation.
        rate: Learning rate.
    """

    data: str
    net: str
    decays: bool
    epochs: int
    batch: int
    alpha: float | None = 0.001
    rate: float = 0.1


SETTINGS = {
    "adult-logreg": Setting("adult", "logreg", True, 20, 5, None),
    "adult-dnn": Setting("adult", "dnn", False, 10, 20),
    "mnist-logreg": Setting("mnist", "logreg", True, 5, 5, None),
    "mnist-dnn": Setting("mnist", "dnn", False, 10, 20),
    "newsgroups-logreg": Setting("newsgroups", "logreg", True, 10, 5, None, 0.01),
    "newsgroups-dnn": Setting("newsgroups", "dnn", False, 10, 20),
    "digits-logreg": Setting("digits", "logreg", True, 5, 5, 0.01),
    "digits-dnn": Setting("digits", "dnn", False, 10, 20),
}
FORMS = ("sgd_influence", "sgd_influence:form=last_parameters", "sgd_influence:form=no_hessian")
INFLUENCE = {
    "logreg": "influence:curvature=hessian,damping=0.1,solver=cholesky",
    "newsgroups-logreg": "influence:curvature=hessian,damping=0.1",
    "dnn": "influence:curvature=hessian,damping=1",
}
"""By setting, else by net: the protocol's damping of the net is 1. That of logistic regression is what its solver leaves undone: 100 steps of rate 0.01 at momentum 0.9 go
as far as a damping of 1 / (100 * 0.01 / (1 - 0.9)) = 0.1. MNIST's net, and both of texts, have too many parameters for the whole matrix."""
GROUPS = "comp.sys.ibm.pc.hardware+comp.sys.mac.hardware"
"""The two groups of texts."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """A preset of the size of a study: training examples, as many for validation, and number of seeds."""

    examples: int
    seeds: int


SCALES = {"tiny": Scale(40, 3), "small": Scale(PROTOCOL, 3), "paper": Scale(PROTOCOL, 100)}
"""`tiny` takes seconds, `small` ten minutes on two cores, `paper` has the paper's numbers and takes hours."""

SLIDES = "slides of Hara et al. 2019, 100 seeds"
NOTEBOOK = "released notebook of Hara et al. 2019, 100 seeds"
_TABLE = {
    "adult-logreg": ((0.93, 0.02), (0.85, 0.07), (0.80, 0.10), (0.60, 0.17)),
    "adult-dnn": ((0.75, 0.10), (0.54, 0.12), (0.59, 0.16), (0.32, 0.11)),
    "mnist-logreg": ((0.95, 0.02), (0.70, 0.15), (0.83, 0.10), (0.41, 0.16)),
    "mnist-dnn": ((0.45, 0.12), (0.27, 0.16), (0.37, 0.15), (0.27, 0.12)),
    "newsgroups-logreg": ((0.94, 0.05), (0.82, 0.15), (0.79, 0.15), (0.52, 0.19)),
    "newsgroups-dnn": ((0.45, 0.12), (0.37, 0.12), (0.25, 0.08), (0.11, 0.07)),
}
_NOTEBOOK = (
    ("SGD-influence", 0.754, 0.589),
    ("SGD-influence without Hessian (by its place)", 0.598, 0.404),
    ("influence function", 0.539, 0.318),
)
MEASURED: tuple[Measure, ...] = ("tau", "jaccard")
"""What was published."""
PUBLISHED = (
    *(
        PublishedAgreement(setting, what, measure, *cell, SLIDES)
        for setting, cells in _TABLE.items()
        for (measure, what), cell in zip(
            [(measure, what) for measure in MEASURED for what in ("SGD-influence", "influence function")], cells, strict=True
        )
    ),
    *(
        PublishedAgreement("adult-dnn", what, measure, mean, None, NOTEBOOK)
        for what, *means in _NOTEBOOK
        for measure, mean in zip(MEASURED, means, strict=True)
    ),
)
"""Published means and deviations, of the settings that have any."""

DEVIATIONS = (
    "Numbers are float64, where the released code has float32.",
    "Influence functions are solved to the end, with a damping of 0.1 for logistic regression and of 1 for the net, where the released code takes 100 steps of gradient descent and a "
    "damping of alpha and of 1.",
    "A method that gives no score in a seed is told with the reason, and its means are over the other seeds; the released code skips seeds in which influence functions have no number.",
)
OF_DIGITS = "The data are scikit-learn's digits, ones against sevens by the settings of MNIST and alpha = 0.01, of which nothing was published."
BY_DECAY = "The regulariser is the optimizer's weight decay and stays whole when an example leaves, where the protocol has it in the loss of each example."

SCHOOL = ("1st-4th", "5th-6th", "7th-8th", "9th", "10th", "11th", "12th")
REGIONS = {
    "US": "United-States,Cuba",
    "Western": "England,Germany,Canada,Italy,France,Greece,Philippines",
    "Poor": "Mexico,Puerto-Rico,Honduras,Jamaica,Columbia,Laos,Portugal,Haiti,Dominican-Republic,El-Salvador,Guatemala,Peru,"
    "Trinadad&Tobago,Outlying-US(Guam-USVI-etc),Nicaragua,Vietnam,Holand-Netherlands",
    "Eastern": "India,Iran,Cambodia,Taiwan,Japan,Yugoslavia,China,Hong",
    "Poland team": "South,Poland,Ireland,Hungary,Scotland,Thailand,Ecuador",
}
MERGED: dict[str, dict[str | None, str]] = {
    "workclass": {None: "0", "Without-pay": "Never-worked"},
    "education": dict.fromkeys(SCHOOL, "Primary"),
    "marital-status": {"Married-AF-spouse": "Married-civ-spouse"},
    "occupation": {None: "0", "Armed-Forces": "0"},
    "native-country": {None: "US", **{country: region for region, text in REGIONS.items() for country in text.split(",")}},
}
"""Which categories the protocol takes together; None is a missing cell."""


@dataclasses.dataclass(frozen=True)
@checked_fields
class FidelityGrid:
    """What a study of fidelity measures; settings left out take the values of its scale.

    Attributes:
        adult: Folder of the files of Adult; None leaves these settings out.
        mnist: Folder of MNIST's four files; None leaves these settings out.
        newsgroups: scikit-learn's folder of data with 20 Newsgroups in it; None leaves these settings out. Without any of the three, `tiny` takes scikit-learn's digits.
        nets: `logreg`, `dnn`, or both.
        methods: Scores to compare with leave-one-out; by default the three forms of sgd_influence, and influence with a damping for each net.
        seeds: How many, from 0.
        examples: Training examples, and as many for validation; 200 in the protocol.
        regulariser: Where the regulariser is: in the loss of each example, as in the protocol (`losses`), or in the optimizer (`optimizer`), as weight decay, by which the same
            net is trained. An example takes its share of it away when it leaves, or it does not; methods that need losses of what the net returns alone, such as those by
            a Gauss-Newton matrix, give no score by the first.

    Raises:
        UsageError: A value is of a wrong kind or outside its range.
    """

    adult: str | None = None
    mnist: str | None = None
    newsgroups: str | None = None
    nets: str | Sequence[str] = NETS
    methods: str | Sequence[str] | None = None
    seeds: int | None = None
    examples: int | None = None
    regulariser: Regulariser = "losses"

    def __post_init__(self):
        if self.regulariser not in ("losses", "optimizer"):
            raise UsageError(f"regulariser={self.regulariser!r} is neither 'losses' nor 'optimizer'.")
        object.__setattr__(self, "nets", titled(self.nets))
        if strange := [net for net in self.nets if net not in NETS]:
            raise UnknownName("net of this protocol", str(strange[0]), NETS)
        if not self.nets or len(set(self.nets)) < len(self.nets):
            raise UsageError(f"nets: {', '.join(self.nets) or 'none'}; give at least one, and each once.")
        if self.seeds is not None and self.seeds < 1:
            raise UsageError(f"seeds={self.seeds} is no whole number of 1 or more.")
        if self.examples is not None and self.examples <= 2 * ENDS:
            raise UsageError(
                f"examples={self.examples} is not above {2 * ENDS}, with which the ten smallest and ten largest would be all of them."
            )


@checked_arguments
def study_fidelity(
    folder: str | Path, *, scale: str = "small", grid: FidelityGrid | None = None, execution: Execution | None = None
) -> FidelityStudy:
    """Study of how well methods rank what leaving an example out of training does; saved in `folder` with a page.

        study = assay.study_fidelity("studies/fidelity", scale="tiny")

    Args:
        folder: Folder of the study; if it holds the same study, also one of fewer repetitions, that is continued.
        scale: `tiny`, `small` or `paper`.
        grid: Data, nets, methods and seeds; what it leaves out takes the values of `scale`.
        execution: Where seeds run, and who is told of each.

    Raises:
        UnknownName: No such scale, net or method.
        UsageError: No data, too few of them, or a value out of range.
        OutputExists: The folder holds a study of other settings.
        TrialFailed: A seed ended in an error.
    """
    if scale not in SCALES:
        raise UnknownName("scale", scale, SCALES)
    preset, grid, execution = SCALES[scale], grid or FidelityGrid(), execution or Execution()
    given = {"adult": grid.adult, "mnist": grid.mnist, "newsgroups": grid.newsgroups}
    sources = {name: path for name, path in given.items() if path is not None}
    if not sources and scale != "tiny":
        raise UsageError(
            f"The scale {scale} needs data: give adult=FOLDER, mnist=FOLDER, newsgroups=FOLDER or several (`--adult`, `--mnist`, `--newsgroups`)."
        )
    sources = sources or {"digits": ""}
    examples = preset.examples if grid.examples is None else grid.examples
    seeds = preset.seeds if grid.seeds is None else grid.seeds
    wanted = {f"{data}-{net}": _titles(f"{data}-{net}", grid.methods) for data in sources for net in grid.nets}
    settings = told(
        {
            "study": "fidelity",
            "data": sources,
            "methods": {cell: list(titles) for cell, titles in wanted.items()},
            "seeds": seeds,
            "examples": examples,
            # A study by the protocol has the settings that it always had.
            **({} if grid.regulariser == "losses" else {"regulariser": grid.regulariser}),
        }
    )
    paths = owned(folder, settings)
    whole = {name: loaded(name, path) for name, path in sources.items()}
    for name, (inputs, _) in whole.items():
        if len(inputs) < 2 * examples:
            raise UsageError(
                f"{name} has {len(inputs)} examples, fewer than {examples} to train on and as many to validate; give fewer examples."
            )
    work = [_work(cell, sources[SETTINGS[cell].data], examples, seeds) for cell in wanted]
    announce(execution, work)
    combined = {
        **given, "nets": list(grid.nets), "methods": None if grid.methods is None else list(titled(grid.methods)),
        "seeds": seeds, "examples": examples, "regulariser": grid.regulariser,
    }  # fmt: skip
    write_plan(execution, paths, "fidelity", work, None, combined, scale)
    found = _measured(wanted, sources, examples, seeds, paths, execution, grid.regulariser)
    published = tuple(one for one in PUBLISHED if one.setting in wanted) if examples == PROTOCOL else ()
    machine = here()
    study = FidelityStudy(
        "fidelity",
        settings,
        {
            "data": ", ".join(sources),
            "examples": examples,
            "inputs": {name: int(inputs.shape[1]) for name, (inputs, _) in whole.items()},
            "numbers": "float64",
            "torch": machine["torch"],
            "machine": machine["machine"],
            "made": machine["created"],
        },
        tuple(one.truth for one in found),
        tuple(agreement for one in found for agreement in one.agreements),
        tuple(refused for one in found for refused in one.refused),
        published,
        tuple(
            f"{one.method} gave no score in {one.setting}, seed {one.seed}: {one.why}" for each in found for one in each.refused
        ),
        (*DEVIATIONS, *([OF_DIGITS] if "digits" in sources else []), *([BY_DECAY] if grid.regulariser == "optimizer" else [])),
    )
    replace(paths.summary, numbers_table(study.numbers, study.published_numbers).encode())
    written(study, folder, render_fidelity(study))
    return study


def _work(cell: str, path: str, examples: int, seeds: int) -> Work:
    """All trainings of one setting: for each seed one that is recorded, and one without each example."""
    setting = SETTINGS[cell]
    steps = setting.epochs * math.ceil(examples / setting.batch)
    return Work(f"of {cell}", seeds * (1 + examples), steps, functools.partial(_seconds_of_a_step, cell, path, examples))


def _seconds_of_a_step(cell: str, path: str, examples: int, steps: int = 50) -> float:
    """Seconds of one step of a setting's training."""
    setting = SETTINGS[cell]
    x, y, _, _ = drawn(*loaded(setting.data, path), 0, examples)
    batch = torch.from_numpy(x[: setting.batch]), torch.from_numpy(y[: setting.batch]).double()
    with torch.random.fork_rng(devices=[]):
        model = net_of(setting.net, x.shape[1]).double()
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.1), losses_with(setting.alpha or 0.0)
    for step in range(2 * steps):
        if step == steps:
            began = time.perf_counter()
        optimizer.zero_grad()
        losses(model, batch).mean().backward()
        optimizer.step()
    return (time.perf_counter() - began) / steps


def _titles(cell: str, asked: str | Sequence[str] | None) -> tuple[str, ...]:
    """Titles of the methods for one setting.

    Raises:
        UsageError: None, or one twice.
    """
    influence = INFLUENCE.get(cell, INFLUENCE[SETTINGS[cell].net])
    titles = tuple(methods.parse(one).title for one in ((*FORMS, influence) if asked is None else titled(asked)))
    if not titles or len(set(titles)) < len(titles):
        raise UsageError(f"methods: {', '.join(titles) or 'none'}; give at least one, and each once.")
    return titles


def _measured(
    wanted: dict[str, tuple[str, ...]],
    sources: dict[str, str],
    examples: int,
    seeds: int,
    paths: StudyPaths,
    execution: Execution,
    regulariser: Regulariser,
) -> list[SeedResult]:
    """Every seed of every setting; those of an earlier call are taken from the folder."""
    where: dict[str, Path] = {}
    calls = []
    for cell, titles in wanted.items():
        source = SETTINGS[cell].data
        inputs, labels = loaded(source, sources[source])
        content = fingerprint(inputs.tobytes(), labels.tobytes())
        for seed in range(seeds):
            name = f"{cell}-{seed}"
            made_of = (cell, repr(titles), content, str(examples), __version__)
            where[name] = paths.trial(fingerprint(*made_of, *([] if regulariser == "losses" else [regulariser])), seed)
            if finished(functools.partial(load_seed_result, made_of=where[name].stem), where[name]) is None:
                work = cell, sources[source], examples, titles, seed, regulariser, str(_trained_of(where[name]).absolute())
                calls.append(Call(name, one_seed, work, where[name].stem, resumes=True, trainings=1 + examples))
    total, done = len(where), len(where) - len(calls)
    execution.progress.advance("seeds", done, total, "taken from an earlier study" if done else "")
    with ExitStack() as stack:
        pool = execution.pool if execution.pool is not None else stack.enter_context(executor("inline"))
        for name, found in run_all(pool, calls, paths.logs, "leave one out", done * (1 + examples)):
            done += 1
            save_seed_result(found, where[name], where[name].stem)
            KeptRetrainings(_trained_of(where[name]), "", 0).forget()
            words = ", ".join(f"{one.method} {one.tau:.3f}" for one in found.agreements[:2])
            execution.progress.advance("seeds", done, total, f"{name}: tau {words}")
    return [load_seed_result(path, made_of=path.stem) for path in where.values()]


def _trained_of(seed: Path) -> Path:
    """Where the trainings of a seed are kept until it is finished.

    Raises:
        OutputExists: There is a link.
    """
    kept = seed.with_suffix(".retrained")
    if kept.is_symlink():
        raise OutputExists(f"{kept} is a link, through which files elsewhere would be written; remove it.")
    return kept


@functools.lru_cache(maxsize=3)
def loaded(data: str, path: str) -> tuple[np.ndarray, np.ndarray]:
    """All inputs and labels (0 or 1) of one dataset.

    Raises:
        UsageError: A file is absent or damaged.
    """
    if data == "newsgroups":
        return two_groups(path)
    return adult(path) if data == "adult" else ones_and_sevens(path)


def adult(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Both files of Adult: numbers first, then one column per merged category."""
    parts = [cells_of(file) for file in files_in(path)]
    rows = [row for part in parts for row in part.rows]
    columns = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))
    labels = np.array([cell.startswith(">50K") for cell in columns.pop("income")], dtype=np.int64)
    numbers, categories = [], []
    for name, cells in columns.items():
        if cells[0].lstrip("-").isdigit():
            values = np.array(cells, dtype=np.float64)
            numbers.append(np.log1p(values) if name == "fnlwgt" else values)
        else:
            merged = np.array([MERGED.get(name, {}).get(cell, cell) for cell in cells])
            categories += [merged == one for one in np.unique(merged)]
    return np.stack([*numbers, *categories], 1).astype(np.float64), labels


def ones_and_sevens(path: str) -> tuple[np.ndarray, np.ndarray]:
    """All ones, then all sevens, in 0..1: of MNIST's training images but the first 5,000, which the protocol's reader kept apart; or, without a path, of
    scikit-learn's digits."""
    if path:
        train = MNIST(path).load().train
        images, digits = train.inputs[5000:].flatten(1).numpy() / 255, train.labels[5000:].numpy()
    else:
        split = Digits().load()
        images = torch.cat([split.train.inputs, split.test.inputs]).flatten(1).numpy() / 255
        digits = torch.cat([split.train.labels, split.test.labels]).numpy()
    ones, sevens = images[digits == 1], images[digits == 7]
    return np.concatenate([ones, sevens]), np.repeat([0, 1], [len(ones), len(sevens)])


def two_groups(path: str) -> tuple[np.ndarray, np.ndarray]:
    """The training texts of two groups, then the test texts, as tf-idf by the words of the training texts."""
    split = Newsgroups(path, GROUPS, features=None).load()
    parts = split.train, split.test
    return (
        np.concatenate([part.inputs.numpy() for part in parts]).astype(np.float64),
        np.concatenate([part.labels.numpy() for part in parts]).astype(np.int64),
    )


def drawn(
    inputs: np.ndarray, labels: np.ndarray, seed: int, size: int = PROTOCOL
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and validation part of one seed, standardised."""
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    # As many test examples as the protocol draws, so that its validation examples are drawn here too.
    others = min(2 * size, len(inputs) - size)
    x, rest, y, rest_labels = train_test_split(inputs, labels, train_size=size, test_size=others, random_state=seed)
    held, held_labels = rest, rest_labels
    if others > size:
        held, _, held_labels, _ = train_test_split(
            rest, rest_labels, train_size=size, test_size=others - size, random_state=seed + 1
        )
    scaler = StandardScaler().fit(x)
    return scaler.transform(x), y, scaler.transform(held), held_labels


def alpha_of(inputs: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """Strength of the regulariser of logistic regression."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegressionCV

    with warnings.catch_warnings():
        # The protocol takes C as it comes, after scikit-learn's own number of iterations.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", FutureWarning)
        found = LogisticRegressionCV(random_state=seed, fit_intercept=False, cv=5).fit(inputs, labels)
    return 1 / (float(np.ravel(found.C_)[0]) * len(labels))


def net_of(kind: str, dims: int) -> nn.Module:
    """Logistic regression with bias, or two hidden layers of 8."""
    if kind == "logreg":
        return nn.Linear(dims, 1)
    return nn.Sequential(nn.Linear(dims, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))


def losses_with(alpha: float) -> Callable[[nn.Module, tuple[Tensor, Tensor]], Tensor]:
    """Binary cross-entropy of each example, each with the whole regulariser."""

    def losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, labels = batch
        plain = F.binary_cross_entropy_with_logits(model(inputs)[:, 0], labels.to(inputs.dtype), reduction="none")
        if not alpha:
            # Without a glance at the parameters, so that the losses are those of the outputs.
            return plain
        return plain + alpha / 2 * nn.utils.parameters_to_vector(model.parameters()).square().sum()

    return losses


def ends(values: np.ndarray) -> set[int]:
    """The ten smallest and the ten largest."""
    order = np.argsort(values, kind="stable")
    return {*order[:ENDS].tolist(), *order[-ENDS:].tolist()}


def one_seed(
    cell: str, path: str, size: int, titles: Sequence[str], seed: int, regulariser: Regulariser = "losses", kept: str = ""
) -> SeedResult:
    """Record, leave every example out, score, compare.

    Args:
        cell: Name of the setting.
        path: Folder of its data.
        size: How many examples.
        titles: Methods.
        seed: Seed of data, weights and split.
        regulariser: Where the regulariser is.
        kept: Folder in which each training without an example is kept, and taken from; empty for none.

    Raises:
        AssayError: Leave-one-out failed.
    """
    setting = SETTINGS[cell]
    with TURN, tempfile.TemporaryDirectory() as scratch:
        parts = drawn(*loaded(setting.data, path), seed, size)
        return _one_seed(cell, parts, titles, seed, Path(scratch) / "run", regulariser, Path(kept) if kept else None)


def _one_seed(
    cell: str,
    parts: Sequence[np.ndarray],
    titles: Sequence[str],
    seed: int,
    folder: Path,
    regulariser: Regulariser,
    kept: Path | None,
) -> SeedResult:
    setting, (x, y, held, held_labels) = SETTINGS[cell], parts
    alpha = alpha_of(x, y, seed) if setting.alpha is None else setting.alpha
    torch.manual_seed(seed)
    model = net_of(setting.net, x.shape[1]).double()
    decay = alpha if regulariser == "optimizer" else 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=setting.rate, weight_decay=decay)
    chunks = math.ceil(len(y) / setting.batch)
    epochs = [np.array_split(np.random.RandomState(epoch).permutation(len(y)), chunks) for epoch in range(setting.epochs)]
    rate = (lambda step: setting.rate / math.sqrt(step + 1)) if setting.decays else None
    losses = losses_with(alpha - decay)
    loop = record(folder, model, optimizer, torch.from_numpy(x), torch.from_numpy(y), epochs, losses=losses, rate=rate)
    inputs, labels = torch.from_numpy(held), torch.from_numpy(held_labels).double()

    def validation(net: nn.Module) -> Tensor:
        return F.binary_cross_entropy_with_logits(net(inputs)[:, 0], labels)

    # With leave-one-out among them, loop and target are read whatever else is asked for.
    request = Request(loop=loop, targets={"validation": validation}, alone=True, kept=None if kept is None else (kept, kept.stem))
    scored, refused = served(folder, list(dict.fromkeys([TRUTH, *titles])), request, joined=True)
    if TRUTH in refused:
        raise NumericalError(f"Nothing can be compared in {cell}, seed {seed}: {refused[TRUTH]}")
    lineage = scored[TRUTH].lineage
    seconds = lineage.seconds if lineage is not None else 0.0
    truth = scored[TRUTH].values.numpy()
    with torch.no_grad():
        loss = float(validation(model))
        right = float(((model(inputs)[:, 0] > 0) == (labels > 0)).double().mean())
    agreements = []
    for title in (title for title in titles if title in scored):
        score = scored[title]
        values = (-score.hardness()).numpy()
        if not np.ptp(values) or len(score.unscored):
            refused[title] = "it gives examples no value, or all of them the same, which ranks nothing."
            continue
        both = ends(values), ends(truth)
        agreements.append(
            Agreement(
                cell, title, seed, float(kendalltau(values, truth).statistic), float(spearmanr(values, truth).statistic),
                len(both[0] & both[1]) / len(both[0] | both[1]),
            )
        )  # fmt: skip
    return SeedResult(
        Truth(cell, seed, alpha, loss, right, seconds),
        tuple(agreements),
        tuple(Refused(cell, title, seed, why) for title, why in refused.items()),
    )

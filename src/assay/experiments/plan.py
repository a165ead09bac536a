"""A plan: which data, which net, how to train, what to plant and what to record. Everything needed to repeat the experiment."""

import dataclasses
import functools
import json
import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from .. import data, methods, nets
from ..core import options
from ..core.accumulators import AbstractAccumulator, AbstractStepMethod
from ..core.arguments import described
from ..core.errors import Mismatch, RunError, UnknownName, UsageError, reading
from ..core.lineage import fingerprint
from ..core.live_selection import AbstractLiveSelector
from ..core.method import AbstractMethod
from ..data.corruption import Planted, extra_class, plant
from ..data.examples import Examples, RowReader, joined
from ..data.human import human_labels
from ..data.image_corruption import STRENGTHS, Corrupted, corrupt
from ..data.splitting import folds_of as fold_numbers
from ..data.splitting import held_out, subset
from ..data.transforms import augment
from ..maths import draws
from ..policies import parse_live
from ..replay.live_methods import NOT_LIVE, check_live
from ..runs.disk import read_bytes, study_in
from ..runs.recording import Recording
from ..runs.run import Run
from ..training.recipe import Recipe

DEFAULT_RECIPE = {"epochs": 20, "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
"""Used where a plan says nothing: plain SGD with momentum at a constant rate."""
EXTRA_NAME = "(no class)"
"""Name of the class that no example truly has."""


_ROWS = pydantic.Field(strict=False)
"""TOML and JSON write lists where a plan holds tuples; everything else must be of its own type, so that `seed = true` is no 1."""


class Plant(pydantic.BaseModel):
    """What is made wrong on purpose.

    Attributes:
        kind: Labels that are flipped (`uniform`, `pair` or `class`, see `data.corruption.plant`), labels that people gave (`human`, see
            `data.human.human_labels`), or images that are damaged under their right labels (`blur`, `noise`, `rotation`, `contrast` or `mixed`, see
            `data.image_corruption.corrupt`).
        rate: Fraction of the labels or images; not for `class` and `human`.
        seed: Random seed of the draws; by default the plan's.
        matrix: For `class`: chance of each given label, a row for each true label.
        strength: For images: how strong the damage is.
        kernel: For `blur`: width of the kernel in pixels.
        labels: For `human`: the file of labels.
        column: For `human`: which labels of the file.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["uniform", "pair", "class", "human", "blur", "noise", "rotation", "contrast", "mixed"] = "uniform"
    rate: float | None = None
    seed: int | None = None
    matrix: Annotated[tuple[Annotated[tuple[float, ...], _ROWS], ...], _ROWS] | None = None
    strength: float | None = None
    kernel: int | None = None
    labels: str | None = None
    column: str | None = None

    @property
    def damages(self) -> bool:
        """Whether images are damaged, and not labels."""
        return self.kind in STRENGTHS

    def check(self) -> None:
        """Refuse settings that the kind does not take; those that it needs are asked for when it is carried out.

        Raises:
            UsageError: Names the setting.
        """
        takes = {"seed", "rate", *({"strength", "kernel"} if self.damages else {"matrix"})}
        if self.kind == "human":
            takes = {"labels", "column"}
            if self.labels is None:
                raise UsageError("The plan's plant of kind 'human' needs a file: labels=CIFAR-10_human.pt,column=worse_label.")
        for name in ("rate", "seed", "matrix", "strength", "kernel", "labels", "column"):
            if getattr(self, name) is not None and name not in takes:
                raise UsageError(f"The plan's plant.{name} is not for kind {self.kind!r}; leave it out.")

    def carried_out(self, train: Examples, seed: int) -> Planted | Corrupted:
        """The examples with what is made wrong.

        Args:
            train: Under their right labels.
            seed: Used where the plan of planting names none.

        Raises:
            UsageError: A setting is out of range or missing, or does not fit the examples.
        """
        seed = seed if self.seed is None else self.seed
        if self.damages:
            return corrupt(train, self.kind, self.rate, self.strength, self.kernel, seed)  # type: ignore[arg-type]
        if self.kind == "human":
            given = human_labels(train, str(self.labels), self.column)
            return Planted(train.with_labels(given), train.labels.to(torch.int64), given != train.labels)
        return plant(train, self.kind, self.rate, seed, self.matrix)  # type: ignore[arg-type]


class ProbePlant(Plant):
    """Labels that a probe makes wrong: as `Plant`, or of an extra class (see `data.corruption.extra_class`)."""

    kind: Literal["uniform", "pair", "class", "extra_class"] = "uniform"  # type: ignore[assignment]

    def on(self, examples: Examples, seed: int) -> Examples:
        """The examples under these labels.

        Raises:
            UsageError: The planting does not fit the examples.
        """
        seed = seed if self.seed is None else self.seed
        if self.kind != "extra_class":
            return plant(examples, self.kind, self.rate, seed, self.matrix).examples
        if self.rate is None or self.matrix is not None:
            raise UsageError("The plan's probe of kind 'extra_class' takes a rate and no matrix.")
        labels = extra_class(examples.labels.to(torch.int64), examples.classes, examples.ids.keys, self.rate, seed)
        return dataclasses.replace(examples, labels=labels, class_names=(*examples.class_names, EXTRA_NAME))


@dataclasses.dataclass(frozen=True)
class PlanRecording(Recording):
    """What is kept of a plan's training, and of what it held out.

    Attributes:
        live: Methods to run along, by name.
        validation: Whether the losses of the validation examples are measured at each epoch's end. By default they are, where the plan holds some out.

    Raises:
        UsageError: A setting is of a wrong kind or outside its range.
    """

    live: Sequence[str] = ()
    validation: bool | None = None


class Plan(pydantic.BaseModel):
    """One experiment, as a TOML file or as flags.

    Attributes:
        data: Dataset with options, `"cifar10:path=DIR,labels=worse_label"` or a table with `name`.
        net: Net with options, `"mlp:widths=64-128"`.
        seed: Random seed of initial weights, order, augmentation and, unless `plant` names its own seed, planting.
        validation: Fraction of the training examples that is held out before labels are planted wrong, the same of every class; for
            methods that predict changes on examples not trained on.
        plant: Labels to make wrong or images to damage; None for none.
        subset: Fraction of the training examples that take part at all, the same of every class, drawn before anything else; a smaller one is
            part of a larger one under the same seed.
        models: How many nets are trained on the same examples, each from its own initial weights and in its own order; scores are then means
            over them.
        member: Index of this plan's model among them; 0 is the model that a run shows.
        folds: Into how many folds the examples are split, each predicted by a model that was trained on the others, so that every example gets facts
            of a model that never saw it; rows that a reader would draw for testing are among them. None for none.
        fold: Index of the fold that this plan's model is trained without; its examples are then the test part.
        probe: Labels to make wrong beside those that are wrong already, for `assay probe`; where the truth is known it stays what it was.
        recipe: Settings of training; those left out take DEFAULT_RECIPE's, then `Recipe`'s defaults.
        select: A live selector that chooses the examples of each epoch before it begins, `"infobatch:ratio=0.5"`; by default each epoch trains
            on all. Retrainings by `verify` use the selector too.
        record: What is kept.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)

    data: str
    net: str = "mlp"
    seed: int = 0
    validation: float = 0.0
    subset: float = 1.0
    models: int = 1
    member: int = 0
    # None and not 0, so that plans of before stay what they were.
    folds: int | None = None
    fold: int | None = None
    plant: Plant | None = None
    probe: ProbePlant | None = None
    recipe: dict[str, Any] = pydantic.Field(default_factory=dict)
    select: str | None = None
    record: PlanRecording = PlanRecording()

    @pydantic.field_validator("recipe", mode="before")
    @classmethod
    def _renamed(cls, value: Any) -> Any:
        # So that runs of before this setting had its name can be trained again.
        if not isinstance(value, Mapping) or "ragged" not in value or "last_batch" in value:
            return value
        return {"last_batch" if name == "ragged" else name: one for name, one in value.items()}

    @pydantic.field_validator("record", mode="plain")
    @classmethod
    def _kept(cls, value: Any) -> PlanRecording:
        if isinstance(value, PlanRecording):
            return value
        if not isinstance(value, Mapping):
            raise ValueError("give a table")
        if strange := [name for name in value if name not in _recorded()]:
            raise UnknownName("setting of a plan", f"record.{strange[0]}", _settings())
        return PlanRecording(**value)

    @pydantic.field_serializer("record")
    def _plain_record(self, value: PlanRecording) -> dict[str, Any]:
        return {name: setting for name in _recorded() if (setting := getattr(value, name)) is not None}

    @pydantic.field_validator("data", mode="before")
    @classmethod
    def _spec(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        if not isinstance(value.get("name"), str):
            raise ValueError("a table of data needs a name, such as 'digits'")
        rest = {key: inner for key, inner in value.items() if key != "name"}
        for key, inner in rest.items():
            if not isinstance(inner, (str, int, float)) or "," in str(inner):
                raise ValueError(f"{key} must be a number, true, false or a text without a comma")
        return options.join(value["name"], rest)

    def __init__(self, **settings: Any):
        """Check the types of the settings; `make` also checks their ranges and whether they go together.

        Raises:
            UnknownName: No setting has that name.
            UsageError: A value is of the wrong type, or `data` is missing.
        """
        try:
            super().__init__(**settings)
        except pydantic.ValidationError as error:
            raise _refusal(error) from error

    @classmethod
    def make(cls, settings: Mapping[str, Any]) -> "Plan":
        """A plan from plain settings.

        Raises:
            UnknownName: No setting has that name.
            UsageError: A value is of the wrong type or out of range, or `data` is missing.
        """
        if not isinstance(settings, Mapping):
            raise UsageError(f"A plan is made of settings by name, such as {{'data': 'digits'}}, not of {described(settings)}.")
        if strange := [name for name in settings if not isinstance(name, str)]:
            raise UnknownName("setting of a plan", str(strange[0]), _settings())
        plan = cls(**settings)
        if plan.record.validation:
            if not plan.validation:
                raise UsageError(
                    "The plan's record.validation = true asks for losses of examples that are held out, and it holds none out; give validation, a "
                    "fraction of the training examples (`--validation 0.2`)."
                )
            # What is the default anyway is no other plan.
            plan = plan.model_copy(update={"record": dataclasses.replace(plan.record, validation=None)})
        # A bad recipe, net, dataset or method is refused here, not after the data are read.
        recipe = plan.training
        nets.parse(plan.net)
        data.parse(plan.data)
        for planting in (plan.plant, plan.probe):
            if planting is not None:
                planting.check()
        plan.live  # noqa: B018
        plan.selector  # noqa: B018
        if not 0 <= plan.validation < 1:
            raise UsageError(
                f"The plan's validation = {plan.validation} is outside 0..1; it is a fraction of the training examples."
            )
        if not 0 < plan.subset <= 1:
            raise UsageError(
                f"The plan's subset = {plan.subset} is outside 0..1, 0 excluded; it is a fraction of the training examples."
            )
        if plan.models < 1 or plan.member < 0:
            raise UsageError(f"The plan's models = {plan.models} must be at least 1, and its member = {plan.member} at least 0.")
        if plan.models > 1 and plan.member:
            raise UsageError(
                f"The plan's member = {plan.member} is one model of several; with models = {plan.models} leave it out."
            )
        if plan.folds is not None:
            _check_folds(plan, plan.folds)
        elif plan.fold is not None:
            raise UsageError(f"The plan's fold = {plan.fold} is one of several folds; give folds too, or leave it out.")
        kept = plan.record.checkpoints
        if not isinstance(kept, str) and (not kept or not 0 <= min(kept) <= max(kept) < recipe.epochs):
            raise UsageError(
                f"The plan's record.checkpoints = {list(kept)} must be some of the {recipe.epochs} epochs, 0..{recipe.epochs - 1}."
            )
        return plan

    @classmethod
    def read(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> "Plan":
        """A plan from a TOML file, with some settings replaced.

        Raises:
            UnknownName: No setting has that name.
            UsageError: The file is absent or no TOML; or as `make`.
        """
        settings = settings_in(path)
        if "study" in settings:
            name = study_in(Path(path)) or "NAME"
            raise UsageError(
                f"{path} is the plan of a study; `assay study {name} FOLDER --plan {shlex.quote(str(path))}` carries it out, and says with --dry-run what it takes."
            )
        given = dict(overrides or {})
        old, new = settings.get("plant"), given.get("plant")
        if isinstance(old, dict) and isinstance(new, Mapping) and new.get("kind", old.get("kind")) != old.get("kind"):
            # Rate and matrix belong to their kind of planting; with another kind, none of them is meant.
            del settings["plant"]
        return cls.make(merged(settings, given))

    @functools.cached_property
    def training(self) -> Recipe:
        """The recipe with all defaults filled in."""
        return self.recipe_with(self.model_seed)

    @property
    def model_seed(self) -> int:
        """Seed of initial weights, order and augmentation; that of data and planting is the same for all models."""
        return self.seed if self.member == 0 else draws.integer(self.seed, "model", self.member)

    def of_member(self, member: int) -> "Plan":
        """The plan of one more model."""
        return Plan.make({**self.plain(), "models": 1, "member": member})

    def of_fold(self, fold: int) -> "Plan":
        """The plan of the model that is trained without one fold."""
        return Plan.make({**self.plain(), "fold": fold})

    def recipe_with(self, seed: int) -> Recipe:
        """The recipe under another seed.

        Raises:
            UnknownName: No setting has that name.
            UsageError: A setting is out of range.
        """
        if "seed" in self.recipe:
            raise UsageError(f"The plan's recipe.seed = {self.recipe['seed']!r}: give seed once, outside the recipe.")
        defaults = dict(DEFAULT_RECIPE)
        if self.recipe.get("optimizer", "sgd") != "sgd":
            defaults.pop("momentum")
        return Recipe.from_dict({**defaults, **self.recipe, "seed": seed})

    @functools.cached_property
    def live(self) -> tuple[AbstractMethod, ...]:
        """The methods that are computed during training.

        Raises:
            UnknownName: No such method or option.
            UsageError: A method cannot be computed during training, or is named twice.
        """
        # By name first: a method may import what an option names, and a run's file from elsewhere must run no code.
        for spec in self.record.live:
            kind = methods.catalogue().get(options.split(spec)[0])
            if kind is not None and not issubclass(kind, (AbstractStepMethod, AbstractAccumulator)):
                raise UsageError(f"{spec} {NOT_LIVE}")
        found = tuple(methods.parse(spec) for spec in self.record.live)
        check_live(found)
        return found

    @functools.cached_property
    def selector(self) -> AbstractLiveSelector | None:
        """The live selector that chooses each epoch's examples; None if every epoch trains on all.

        Raises:
            UnknownName: No such live selector or option.
            UsageError: An option is out of range, or a policy that chooses by scores.
        """
        return None if self.select is None else parse_live(self.select)

    def load(self) -> "LoadedData":
        """Read the data and plant the wrong labels.

        Raises:
            UsageError: A file is absent or damaged, or the planting does not fit the data.
        """
        split = data.parse(self.data).load()
        train, true, validation, corrupted = split.train, split.true_labels, None, None
        whole = self.folds is not None and split.drawn
        if whole:
            train, order = joined(split.train, split.test)
            if true is not None and split.test_true_labels is not None:
                true = torch.cat([true, split.test_true_labels])[order]
        if self.subset < 1:
            taken = subset(train.ids, train.labels, self.subset, self.seed)
            train, true = train.take(taken), None if true is None else true[taken]
        if self.validation:
            apart = held_out(train.ids, train.labels, self.validation, self.seed, "validation")
            validation, train = train.take(apart), train.take(~apart)
            true = None if true is None else true[~apart]
        if self.plant is not None:
            if true is not None and not self.plant.damages:
                raise UsageError(
                    f"{self.data} already has wrong labels with a known truth; leave planting out, or use the true labels."
                )
            made = self.plant.carried_out(train, self.seed)
            if isinstance(made, Corrupted):
                # Where nothing else is known, labels are right as they are given, as they are before flips.
                corrupted, true = made.mask, train.labels.to(torch.int64) if true is None else true
            else:
                true = made.true_labels
            train = made.examples
        if self.probe is not None:
            train = self.probe.on(train, self.seed)
        loaded = LoadedData(
            train, split.test, true, split.notes, validation, split.own, test_apart=not whole, corrupted=corrupted
        )
        return loaded if self.fold is None else loaded.without(self.numbers(loaded) == self.fold)

    def numbers(self, loaded: "LoadedData") -> Int[Tensor, " examples"]:
        """The fold of each example, for a plan with folds.

        Raises:
            UsageError: There are more folds than examples.
        """
        assert self.folds is not None
        return fold_numbers(loaded.train.ids, loaded.train.labels, self.folds, self.seed)

    def build(self, loaded: "LoadedData", seed: int) -> nn.Module:
        """The net with new initial weights.

        Raises:
            UsageError: The net does not take these inputs.
        """
        return nets.build(self.net, loaded.train.shape, loaded.train.classes, seed)

    def augmentation(self, loaded: "LoadedData", seed: int):
        """The random crops and flips that the recipe asks for; None for none.

        Raises:
            UsageError: The recipe asks for them on data that are not images.
        """
        recipe = self.training
        if not (recipe.crop or recipe.resized_crop or recipe.flip):
            return None
        if not loaded.train.pictures:
            raise UsageError(f"Crops and flips need images; {self.data} has inputs of shape {loaded.train.shape}.")
        return functools.partial(augment, seed=seed, crop=recipe.resized_crop or recipe.crop, flip=recipe.flip)

    def plain(self) -> dict[str, Any]:
        """The plan as plain values that JSON can hold."""
        return self.model_dump(mode="json", exclude_none=True)


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedData:
    """What a plan trains and tests on. The truth stays here: it never becomes evidence.

    Attributes:
        train: Examples under their given labels.
        test: Examples to measure accuracy on.
        true_labels: True class of each training example, where it is known.
        notes: What the reader of the data had to decide, a sentence each.
        validation: The examples that the plan held out of the training examples, under the labels that were given; None if nothing.
        own: For tables, what reads a row of the user's own; else None.
        test_apart: Whether no test example is trained on and scored; with folds those are that were drawn from the same rows.
        corrupted: Which training images were damaged on purpose; None if none were.
    """

    train: Examples
    test: Examples
    true_labels: Int[Tensor, " examples"] | None
    notes: tuple[str, ...] = ()
    validation: Examples | None = None
    own: RowReader | None = None
    test_apart: bool = True
    corrupted: Bool[Tensor, " examples"] | None = None

    def without(self, held: Tensor) -> "LoadedData":
        """The data of a model that is trained without some examples and tested on them."""
        true, corrupted = (None if known is None else known[~held] for known in (self.true_labels, self.corrupted))
        return dataclasses.replace(
            self,
            train=self.train.take(~held),
            test=self.train.take(held),
            true_labels=true,
            corrupted=corrupted,
            test_apart=True,
        )

    @functools.cached_property
    def content(self) -> str:
        """Hash over everything that is trained and tested on."""
        return fingerprint(self.train.content, self.test.content)

    @property
    def wrong(self) -> Tensor | None:
        """Which given labels are wrong; None where the truth is unknown."""
        return None if self.true_labels is None else self.train.labels != self.true_labels.to(torch.int64)


def settings_in(path: str | Path) -> dict[str, Any]:
    """The settings in a TOML file.

    Raises:
        UsageError: The file is absent or no TOML.
    """
    cure = 'Give a TOML file with at least `data = "digits"`.'
    with reading(path, UsageError, cure):
        try:
            text = read_bytes(Path(path)).decode()
            # The time that tomllib takes for a dotted key grows with the square of its parts.
            if any(word.count(".") >= 64 for word in re.split(r"[\n,={}\[\]]", text.replace(" ", "").replace("\t", ""))):
                raise UsageError(f"{path} is no readable TOML (a key of more than 64 parts).")
            return tomllib.loads(text)
        except FileNotFoundError as error:
            raise UsageError(f'{path} does not exist; give a TOML file with at least `data = "digits"`.') from error
        except (RunError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} is no readable TOML ({error}).") from error


def plan_of(run: Run) -> Plan:
    """The plan that a run was recorded by, with the data checked to be the same.

    Raises:
        UsageError: It was recorded in the user's own loop.
        Mismatch: The data have changed.
    """
    if not has_plan(run):
        raise UsageError(
            f"{run.folder} {came_of(run)}, which assay cannot repeat; in Python, give verify(..., retrain=FUNCTION) "
            "that trains on given ids, labels and weights and returns a test accuracy."
        )
    plan = Plan.make(run.header.about["plan"])  # type: ignore[arg-type]
    recorded = run.header.about["content"]
    # The files may have been put back since this process last read them.
    if load_data(plan).train.content != recorded and (found := load_data(plan, anew=True).train.content) != recorded:
        raise Mismatch(f"{plan.data} now gives data {found}, {run.folder} recorded {recorded}; restore the data or record again.")
    return plan


def came_of(run: Run) -> str:
    """What a run without a plan was made of, in words."""
    if run.passes is None:
        return "was recorded in your own loop"
    return f"was made of {run.header.about.get('made of', 'predictions of your own')}"


def tests_apart(run: Run) -> bool:
    """Whether test examples are left to verify by, as far as the run tells; folds take in those that its data would draw."""
    return run.header.about.get("test examples") != 0


def has_plan(run: Run) -> bool:
    """Whether `experiments.record` made this run, so that it can be repeated. The argument `about` of a user's own loop may hold anything."""
    try:
        About.model_validate(run.header.about)
    except pydantic.ValidationError:
        return False
    return True


class About(pydantic.BaseModel):
    """The fields of a run's description, as `experiments.record` writes it, that assay itself reads."""

    model_config = pydantic.ConfigDict(strict=True)

    plan: dict[str, Any]
    content: str
    data: str
    net: str
    parameters: Annotated[int, pydantic.Field(alias="parameters", ge=0)]
    test_examples: Annotated[int, pydantic.Field(alias="test examples", ge=0)]
    recipe: dict[str, Any]
    notes: Annotated[tuple[str, ...], _ROWS] = ()

    @pydantic.field_validator("plan")
    @classmethod
    def _models(cls, value: dict[str, Any]) -> dict[str, Any]:
        if type(value.get("models", 1)) is not int or value.get("models", 1) < 1:
            raise ValueError("models is no count")
        return value


def _check_folds(plan: Plan, folds: int) -> None:
    """Refuse folds that cannot be recorded."""
    if folds < 2:
        raise UsageError(f"The plan's folds = {folds} must be at least 2, each predicted by a model of the others.")
    if plan.fold is not None and not 0 <= plan.fold < folds:
        raise UsageError(f"The plan's fold = {plan.fold} is outside 0..{folds - 1}.")
    if plan.models > 1:
        raise UsageError(
            "The plan has models and folds; a recording has several models of all examples, or one for each fold. Give one of them."
        )
    if plan.record.checkpoints == "none":
        raise UsageError(
            "The plan's record.checkpoints = 'none' keeps no model to predict the fold that it was trained without; leave it out, or give 'last' or 'every'."
        )


def models_asked(run: Run) -> int:
    """How many models the recording of a run should have by its plan; without a plan, how many it has."""
    # Read as it stands: the data of the plan need not be there.
    return run.header.about["plan"].get("models", 1) if has_plan(run) else 1 + len(run.members)  # type: ignore[attr-defined]


def folds_of(run: Run) -> int:
    """Into how many folds a run's examples were split, each predicted by a model of the others; 0 where they were not."""
    return int(run.header.about["plan"].get("folds", 0)) if run.passes is not None and has_plan(run) else 0  # type: ignore[attr-defined]


def load_data(plan: Plan, *, anew: bool = False) -> LoadedData:
    """The plan's data, read once per process for as long as the plan is the same; or read anew."""
    if anew:
        _loaded.cache_clear()
    # What the data are made of, and not what is trained on them: the models of a recording share one copy.
    made_of = {"data": plan.data, "seed": plan.seed, "subset": plan.subset, "validation": plan.validation}
    made_of |= {name: value for name, value in (("folds", plan.folds), ("fold", plan.fold)) if value is not None}
    made = (("plant", plan.plant), ("probe", plan.probe))
    planted = {name: one.model_dump(mode="json", exclude_none=True) for name, one in made if one is not None}
    return _loaded(json.dumps(made_of | planted, sort_keys=True))


@functools.lru_cache(maxsize=1)
def _loaded(made_of: str) -> LoadedData:
    return Plan.make(json.loads(made_of)).load()


def merged(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with `overrides` put over them, table by table."""
    result = dict(settings)
    for key, value in overrides.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def _refusal(error: pydantic.ValidationError) -> UsageError:
    """The first of what pydantic has found, in words."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return UnknownName("setting of a plan", where, _settings())
    if first["type"] == "missing":
        flag = "" if "." in where else f"; give it as --{where} (in Python {where}=), or write it into the plan"
        return UsageError(f"The plan needs a value for {where}{flag}.")
    said = first.get("ctx", {}).get("error")
    if isinstance(said, UnknownName):
        return said
    if isinstance(said, UsageError):
        return UsageError(f"The plan's {where}.{str(said).partition(': ')[2]}")
    value = described(first["input"]) if isinstance(first["input"], torch.Tensor) else repr(first["input"])
    return UsageError(f"The plan's {where} = {value}: {first['msg'].removeprefix('Value error, ')}.")


def _recorded() -> list[str]:
    return [field.name for field in dataclasses.fields(PlanRecording)]


def _settings() -> Sequence[str]:
    tables = {
        "plant": list(Plant.model_fields),
        "record": _recorded(),
        "recipe": [field.name for field in dataclasses.fields(Recipe) if field.name != "seed"],
    }
    return [*Plan.model_fields, *(f"{table}.{name}" for table, names in tables.items() for name in names)]

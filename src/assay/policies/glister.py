r"""GLISTER: examples on which a step of the head lowers the validation loss the most.

$$ \theta_S = \theta - \eta \, \tfrac{1}{|S|} \sum_{j \in S} g_j, \qquad
   j_{k+1} = \arg\max_{j \notin S} \, \langle g_j, \nabla L_V(\theta_S) \rangle, $$

with $\theta$ weight and bias of the head, $g_j$ an example's gradient at $\theta$, and $L_V$ the mean validation loss.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..core.errors import UsageError
from ..core.method import Asks, Source
from ..core.models import Model, Queries, head_factors
from ..core.needs import Need
from ..core.selection import AbstractSelector, Pool, Selection, class_turns, count_of
from ..maths.example_vectors import OuterVectors, Vectors

ROUNDING = 1e-4
"""How far, relative to their largest, the validation losses' derivatives may be from those of a cross-entropy."""


@dataclasses.dataclass(frozen=True, eq=False)
class Validation:
    """Validation examples at the head.

    Attributes:
        inputs: What goes into the head, with a 1 at the end where it has a bias.
        logits: What comes out.
        labels: Class of each.
        weights: How much each counts in the loss; they add up to 1.
    """

    inputs: Float[Tensor, "queries inputs"]
    logits: Float[Tensor, "queries classes"]
    labels: Int[Tensor, " queries"]
    weights: Float64[Tensor, " queries"]

    def moved(self, step: Float64[Tensor, "classes inputs"]) -> Float64[Tensor, "queries classes"]:
        """The logits after a step of the head's weight and bias."""
        return self.logits.to(torch.float64) + (self.inputs @ step.to(self.inputs.dtype).T).to(torch.float64)

    def gradient(self, step: Float64[Tensor, "classes inputs"]) -> Float64[Tensor, "classes inputs"]:
        """Gradient of the loss by the head's weight and bias, after a step."""
        errors = self.moved(step).softmax(1)
        errors[torch.arange(len(errors)), self.labels] -= 1
        return OuterVectors(self.inputs, errors.to(self.inputs.dtype)).total(self.weights)

    def loss(self, step: Float64[Tensor, "classes inputs"]) -> float:
        """The loss after a step, in nats."""
        logs = self.moved(step).log_softmax(1)
        return -float(self.weights @ logs[torch.arange(len(logs)), self.labels])


def glister(
    vectors: Vectors, validation: Validation, rate: float, classes: Sequence[Int[Tensor, " _"]], every: int = 1
) -> tuple[Int[Tensor, " kept"], Float64[Tensor, " steps"]]:
    r"""Examples one by one, each with the gradient that points the most along the validation loss's at $\theta_S$.

    Args:
        vectors: Gradient of each example by the head's weight and bias.
        validation: The validation examples.
        rate: $\eta$.
        classes: For each step, the examples that may be taken.
        every: After how many steps the validation gradient is computed anew.

    Returns:
        The examples in the order in which they are taken, the lowest number first among equals; and the validation loss at $\theta_S$ after each step at which its
        gradient is computed, before the first too.

    Raises:
        UsageError: A step of this rate leads to what is not finite.
    """
    order: list[int] = []
    total = torch.zeros(validation.logits.shape[1], validation.inputs.shape[1], dtype=torch.float64)
    gains = torch.zeros(len(vectors), dtype=torch.float64)
    slack = 0.0
    losses = []
    left = torch.ones(len(vectors), dtype=torch.bool)
    for step, members in enumerate(classes):
        if step % every == 0:
            moved = -rate / max(1, step) * total
            losses.append(validation.loss(moved))
            gains = vectors.along(validation.gradient(moved))
            if not bool(gains.isfinite().all()):
                raise UsageError(
                    f"glister: after a step of rate={rate:g} the validation gradient is not finite; give a smaller rate, such as rate=0.1."
                )
            slack = 16 * torch.finfo(vectors.dtype).eps * float(gains.abs().max())
        open_ = members[left[members]]
        here = gains[open_]
        chosen = int(open_[(here >= here.max() - slack).nonzero()[0, 0]])
        order.append(chosen)
        left[chosen] = False
        one = torch.tensor([chosen])
        total += vectors.take(one).total(torch.ones(1, dtype=torch.float64))
    return torch.tensor(order, dtype=torch.int64), torch.tensor(losses, dtype=torch.float64)


@dataclasses.dataclass(frozen=True)
class Glister(AbstractSelector):
    """Keeps the examples whose gradients, by weight and bias of the head, lower the validation loss the most in one step. No score is read.

    After each example taken, the validation loss is looked at again after a step of this rate along the mean gradient of all taken, so that what those before it
    have put right counts no more. Wrong labels, whose gradients point elsewhere, are taken last. A smaller budget keeps the first of those that a larger one keeps. A
    step costs n d C and m d C multiplications, for n examples and m validation examples with d numbers before the head and C classes.

    Args:
        keep: Fraction of examples that stay, a number with a point in 0..1; or a whole number, how many stay.
        target: The validation examples, by name: `validation`, or another target that is a mean of losses.
        rate: Learning rate of the step; none for that of the last step before the model was kept.
        every: After how many examples the validation gradient is computed anew.
        by_class: Whether each given class has its part of the budget, in proportion to its examples.
    """

    keep: int | float
    target: str = "validation"
    rate: float | None = None
    every: int = 1
    by_class: bool = True
    name: ClassVar[str] = "glister"
    reads: ClassVar[frozenset[Need]] = frozenset({Need.CHECKPOINTS, Need.LABELS})
    needs_score: ClassVar[bool] = False
    nests: ClassVar[bool] = True
    source: ClassVar[Source] = Source(
        "Killamsetty et al. 2021, GLISTER: Generalization based data subset selection for efficient and robust learning",
        "https://arxiv.org/abs/2012.10630",
        "once, by a kept model, where the paper selects anew as training goes on; the step is along the mean gradient of those taken, as DeepCore has it, so that its "
        "length does not grow with their number; the validation gradient is computed anew, which in DeepCore's code a misspelt keyword prevents; ties break by id; classes by "
        "Webster's quotients",
    )

    def __post_init__(self):
        super().__post_init__()
        count_of(self.keep)
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise UsageError(f"{self.name}: rate={self.rate} is no finite number above 0.")
        if self.every < 1:
            raise UsageError(f"{self.name}: every={self.every} is below 1; it is a number of examples.")

    @property
    def asks(self) -> Asks:
        return Asks(queries=(self.target,))

    def select(self, pool: Pool) -> Selection:
        budget = count_of(self.keep, len(pool))
        source = pool.checkpoints
        model = source.at(source.kept[-1])
        vectors = head_factors(model.batches(), model.head) if model.head else None
        if vectors is None:
            raise UsageError(
                f"{self.title} needs a model in which one trainable linear layer makes the logits of each example in a single call; choose craig or gradmatch with "
                "features=grads:project=512, which need no such layer."
            )
        vectors = vectors if pool.place is None else vectors.take(pool.place)
        by_rank = torch.argsort(pool.ids.ranks)
        labels = pool.labels[by_rank]
        members_in_turn = dict[int, Tensor]()
        for members, turns, _ in class_turns(pool, self.by_class, budget):
            # By rank, as the vectors stand.
            members_in_turn |= dict.fromkeys(turns.tolist(), pool.ids.ranks[members].sort().values)
        classes = [members_in_turn[turn] for turn in range(budget)]
        taken, losses = glister(
            vectors.take(by_rank), self._validation(source.queries(self.target), model), self._rate(model), classes, self.every
        )
        order = by_rank[taken]
        reasons = {
            position: f"glister {place}, of class {pool.class_name(label)}; {self.target} loss {loss:.4g} after a step on those before it"
            for place, (position, label, loss) in enumerate(
                zip(order.tolist(), labels[taken].tolist(), losses.repeat_interleave(self.every)[:budget].tolist(), strict=True),
                1,
            )
        }
        return Selection.taken(
            order, pool, "taken by glister", f"lowers the {self.target} loss less than those that glister took", reasons
        )

    def _rate(self, model: Model) -> float:
        if self.rate is not None:
            return self.rate
        rate = max(model.rates[name] for name in model.head)
        if not 0 < rate < math.inf:
            raise UsageError(
                f"{self.title}: the learning rate of the head was {rate} in the last step before the model was kept; give one, such as rate=0.1."
            )
        return rate

    def _validation(self, queries: Queries, model: Model) -> Validation:
        seen = head_factors(model.queries(self.target), model.head)
        logits = torch.cat([batch.outputs({}).detach().cpu() for batch in model.queries(self.target)])
        assert seen is not None
        found = Validation(seen.left, logits, queries.labels, queries.weights)
        errors = logits.softmax(1)
        errors[torch.arange(len(errors)), queries.labels] -= 1
        if not float((errors - seen.right).abs().max()) <= ROUNDING * float(errors.abs().max()):
            raise UsageError(
                f"{self.title}: the losses of target {self.target!r} are no cross-entropies of the logits, so that they cannot be told after a step of the head; choose "
                "craig or gradmatch, which look at no target."
            )
        return found

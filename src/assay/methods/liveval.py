r"""LiveVal: how far a step on the example alone goes towards the parameters that training reaches a few steps later.

$$ v_i^t = \frac{\lVert \Delta_t \rVert - \lVert \Delta_t + \eta_t g_i^t \rVert}{\lVert \Delta_t \rVert + \lVert \Delta_t + \eta_t g_i^t \rVert},
   \qquad \Delta_t = \theta_{t'} - \theta_{t-1}, \quad t' = \min(t + \delta_t - 1, T) $$

$g_i^t$ is the example's gradient before step $t$, $\eta_t$ the learning rate, $T$ the last step. The window $\delta_t$ grows while the loss changes
fast and shrinks while it is flat; with `window_rule=alg3` it does the opposite.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.accumulators import AbstractStepMethod
from ..core.errors import UsageError
from ..core.evidence import Evidence
from ..core.method import Source, derivatives_taken
from ..core.results import Result, Stream
from ..core.scores import RANK_ONLY, Direction
from ..core.spans import checked_span, span
from ..core.steps import Step
from ..maths.params import Params
from ..maths.single_example_steps import gain, single_step_gains


def value(
    dot: Float[Tensor, " batch"],
    sqnorm_gradient: Float[Tensor, " batch"],
    sqnorm_delta: Float[Tensor, " batch"],
    lr: float | Float[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """The value of one visit, in [-1, 1]: above 0 the single-example step goes towards the reference; 0 if D and g are 0.

    Args:
        dot: <D, g>, D from the parameters before the step to the reference, g the example's gradient there.
        sqnorm_gradient: |g|^2.
        sqnorm_delta: |D|^2.
        lr: Learning rate of the step.

    Returns:
        One per example of the visit.
    """
    return gain(lr * dot, lr**2 * sqnorm_gradient, sqnorm_delta)


def liveval(steps: Sequence[Step], examples: int, **options: Any) -> Float[Tensor, " examples"]:
    """The values after a whole training, given as its steps in order.

    Args:
        steps: All steps; the tensors that a step hands out must still be valid when it is read.
        examples: How many examples there are.
        **options: Options of `LiveVal`.

    Returns:
        One per example, the sum or mean of the values of its visits as `LiveVal` gives it.
    """
    method = LiveVal(**options)
    state = method.start(examples)
    for step in steps:
        method.update(state, step)
    return method.compute(state).values


@dataclasses.dataclass(frozen=True)
class LiveVal(AbstractStepMethod):
    """Above 0 a step on the example alone goes where training goes next; steps on the most harmful examples go elsewhere. Runs live.

    Args:
        delta_0: First window, in steps.
        delta_min: Smallest window.
        delta_max: Largest window: how many parameter vectors are held beside the model.
        delta_step: By how many steps the window grows or shrinks at a time.
        eps_lo: Change of the loss per step below which the window shrinks (grows with `alg3`).
        eps_hi: Change of the loss per step above which the window grows (shrinks with `alg3`).
        window_rule: Which change of the loss sets the window. `adaptive`: between the losses of two successive batches, each after its step;
            `window_loss`: between those of the first and the last batch of a window (a window of 1 has no change, and stays 1); `alg3`: of the
            previous step's batch from the start to the end of that step's window; `fixed`: none, the window is always delta_0.
        reduce: `sum` over the visits, or `mean`.
        window: Steps that count: `all`, `last`, or epochs such as `0-2`.
    """

    delta_0: int = 2
    delta_min: int = 1
    delta_max: int = 3
    delta_step: int = 1
    eps_lo: float = 0.05
    eps_hi: float = 0.1
    window_rule: Literal["adaptive", "alg3", "window_loss", "fixed"] = "adaptive"
    reduce: Literal["sum", "mean"] = "sum"
    window: str = "all"
    name: ClassVar[str] = "liveval"
    direction: ClassVar[Direction] = Direction.LOW_IS_SUSPECT
    unit: ClassVar[str] = RANK_ONLY
    source: ClassVar[Source] = Source(
        "Xu et al. 2025, equations 12 to 14; window rule of the released code before its last commit",
        "https://arxiv.org/abs/2502.10489",
        "each value is credited to the examples of its own step, at that step's rate, and the model is never overwritten (the released "
        "code does neither); per-example gradients in eval mode with the running statistics of that step; the single-example step is plain SGD "
        "whatever the optimizer",
    )

    def __post_init__(self):
        super().__post_init__()
        checked_span(self.window, self.title)
        if not 1 <= self.delta_min <= self.delta_0 <= self.delta_max:
            raise UsageError(
                f"{self.title}: delta_min={self.delta_min}, delta_0={self.delta_0} and delta_max={self.delta_max} must rise, from 1."
            )
        if self.delta_step < 1:
            raise UsageError(f"{self.title}: delta_step={self.delta_step} is not a number of steps, 1 or more.")
        if not 0 <= self.eps_lo <= self.eps_hi < math.inf:
            raise UsageError(f"{self.title}: eps_lo={self.eps_lo} and eps_hi={self.eps_hi} must be 0 or more and rise.")

    def steps_read(self, epochs: Sequence[range]) -> range:
        # Windows adapt from the first step on, and references lie behind the last step that counts.
        return range(epochs[0].start, epochs[-1].stop)

    def start(self, examples: int, evidence: Evidence | None = None) -> Any:
        return {
            "values": [torch.zeros(examples, dtype=torch.float64)],
            "visits": [torch.zeros(examples, dtype=torch.float64)],
            "pending": [],
            "states": {},
            "losses": [],
            "delta": self.delta_0,
            "windows": {"count": 0, "sum": 0, "largest": 0},
            "skipped": 0,
            "alone": 0,
            "at": -1,
            "after": {},
            # Under the name of before, so that runs of before are resumed.
            "ways": [],
            # On a replay nobody reads the value over time.
            "stream": None if evidence is not None else [],
        }

    def update(self, state: Any, step: Step) -> None:
        while len(state["values"]) <= step.epoch:
            state["values"].append(torch.zeros_like(state["values"][0]))
            state["visits"].append(torch.zeros_like(state["visits"][0]))
        state["at"], state["after"] = step.index, step.after
        # A batch, not a step: what a step lends beyond it is gone by the time it is valued.
        entry: dict[str, Any] = {
            "index": step.index,
            "epoch": step.epoch,
            "rates": dict(step.rates),
            "batch": step.batch_alone(),
            "delta": 0,
        }
        state["pending"].append(entry)
        if self.window_rule == "alg3":
            self._decide_later(state)
        else:
            entry["delta"] = self._decided(state, step)
            _count(state, entry["delta"])
        self._value_due(state)

    def _decided(self, state: Any, step: Step) -> int:
        """The window of the step just taken."""
        delta = state["delta"]
        if self.window_rule == "fixed":
            return delta
        with torch.no_grad():
            loss = float(step.losses(step.after).to(torch.float64).mean())
        losses = state["losses"]
        losses.append(loss)
        del losses[: -max(2, self.delta_max)]
        if len(losses) > 1:
            before = losses[-2] if self.window_rule == "adaptive" else losses[-delta] if len(losses) >= delta else losses[0]
            rate = abs(loss - before) / delta
            if not math.isfinite(rate):
                state["skipped"] += 1
            elif rate > self.eps_hi:
                delta = min(delta + self.delta_step, self.delta_max)
            elif rate < self.eps_lo:
                delta = max(delta - self.delta_step, self.delta_min)
        state["delta"] = delta
        return delta

    def _decide_later(self, state: Any) -> None:
        """Windows of steps whose predecessor's window has closed; until then where training stood is kept."""
        # Where the newest step began is where the one before ended, and is held for the newest anyway.
        state["states"][state["at"] - 1] = state["pending"][-1]["batch"].params
        while True:
            entry = next((one for one in state["pending"] if not one["delta"]), None)
            if entry is None:
                break
            if "before" in state:
                index, delta, batch = state["before"]
                due = index + delta - 1
                if due > state["at"]:
                    break
                closing = state["after"] if due == state["at"] else state["states"][due]
                state["delta"] = self._after_window(state, batch, closing, delta)
            entry["delta"] = state["delta"]
            _count(state, entry["delta"])
            state["before"] = entry["index"], entry["delta"], entry["batch"]
        for index in [index for index in state["states"] if index <= state["at"] - self.delta_max]:
            del state["states"][index]

    def _after_window(self, state: Any, batch: Any, closing: Params, delta: int) -> int:
        with torch.no_grad():
            change = batch.losses(closing).to(torch.float64).mean() - batch.losses(batch.params).to(torch.float64).mean()
        rate = abs(float(change)) / delta
        if not math.isfinite(rate):
            state["skipped"] += 1
            return delta
        if rate < self.eps_lo:
            return min(delta + self.delta_step, self.delta_max)
        return max(delta - self.delta_step, self.delta_min) if rate > self.eps_hi else delta

    def _value_due(self, state: Any) -> None:
        """Value the steps whose reference is reached. They do not come in order: a later step may have a shorter window."""
        waiting = []
        for entry in state["pending"]:
            due = entry["index"] + entry["delta"] - 1
            if not entry["delta"] or due > state["at"]:
                waiting.append(entry)
                continue
            self._value(state, entry, state["after"] if due == state["at"] else state["states"][due], due)
        state["pending"] = waiting

    def _value(self, state: Any, entry: Any, reference: Params, due: int) -> None:
        batch = entry["batch"]
        state["alone"] += len(batch.positions) == 1 and due == entry["index"]
        found, backend = single_step_gains(batch, reference, entry["rates"])
        found = found.cpu()
        if backend not in state["ways"]:
            state["ways"] = [*state["ways"], backend]
        # An example may stand twice in a batch.
        state["values"][entry["epoch"]].index_add_(0, batch.positions, found)
        state["visits"][entry["epoch"]].index_add_(0, batch.positions, torch.ones_like(found))
        if state["stream"] is not None:
            state["stream"].append((entry["index"], batch.positions, found))

    def streamed(self, state: Any) -> tuple[Stream | None, Any]:
        return (None, state) if state["stream"] is None else (Stream.joined(state["stream"]), {**state, "stream": []})

    def compute(self, state: Any) -> Result:
        state = {**state, "values": [v.clone() for v in state["values"]], "visits": [v.clone() for v in state["visits"]]}
        live = state["stream"] is not None
        state |= {"stream": list(state["stream"]) if live else None, "windows": dict(state["windows"])}
        for entry in state["pending"]:
            # Training has ended before their reference: what is there now takes its place.
            due = min(entry["index"] + (entry["delta"] or state["delta"]) - 1, state["at"])
            self._value(state, entry, state["after"] if due == state["at"] else state["states"][due], due)
            if not entry["delta"]:
                _count(state, state["delta"])
        by_epoch, visits = torch.stack(state["values"]), torch.stack(state["visits"])
        counted = torch.zeros(len(by_epoch), 1, dtype=torch.float64)
        # While training goes on a window may begin, or end, in an epoch to come.
        epochs = span(self.window, max(len(by_epoch), _last(self.window) + 1 if live else 0), self.title)
        counted[epochs.start : epochs.stop] = 1
        by_epoch = by_epoch * counted
        if self.reduce == "mean":
            by_epoch = by_epoch / (visits * counted).sum(0).clamp(min=1)
        windows = state["windows"]
        diagnostics: dict[str, object] = {
            "mean window": windows["sum"] / max(windows["count"], 1),
            "largest window": windows["largest"],
            "steps whose loss was not finite": state["skipped"],
            **derivatives_taken(state["ways"]),
        }
        warnings: tuple[str, ...] = ()
        if state["alone"]:
            warnings = (
                f"{state['alone']} batches of one example were valued against the very step they made, which always gives 1. Record with "
                "a batch_size that divides the examples (a plan with last_batch='even'), or choose delta_min=2.",
            )
        return Result(by_epoch.sum(0), by_epoch, diagnostics, warnings, self.streamed(state)[0])


def _count(state: Any, delta: int) -> None:
    windows = state["windows"]
    windows |= {"count": windows["count"] + 1, "sum": windows["sum"] + delta, "largest": max(windows["largest"], delta)}


def _last(window: str) -> int:
    """The last epoch that a window names; -1 if it names none."""
    last = window.partition("-")[2]
    return int(last) if last.isdecimal() else -1

r"""TRAK: by how much the linearised model, fitted to all examples, would give a query a smaller margin without the example.

$$ \tau_{qi} = \Big(\frac1M \sum_m \phi_m(q)^\top (\Phi_m^\top \Phi_m + \lambda_m I)^{-1} \phi_m(i)\Big) \Big(\frac1M \sum_m (1 - p_{mi})\Big),
   \qquad \phi_m(i) = P^\top \nabla f_i(\theta_m), \qquad f = \log p - \log(1 - p) $$

over models $m$: the kept ones of each model of a recording. $p_{mi}$ is the probability of the given label, and $P$ a random matrix that is never stored.
"""

import dataclasses
import importlib
import math
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.attribution import ROOM, AbstractAttributor, Block
from ..core.errors import MissingEvidence, NumericalError, UsageError
from ..core.evidence import Evidence
from ..core.lineage import fingerprint
from ..core.method import Source
from ..core.models import Batch, ExampleRows, Model
from ..core.needs import Need
from ..core.scores import RANK_ONLY, Direction
from ..maths.margins import log_odds_derivative
from ..maths.projections import project_chunks, project_pairs

OUTPUTS = ("margin", "logit", "loss")
"""Output functions with a name of their own."""
GRADIENT_BYTES = 256 * 2**20
"""What gradients may take before they are projected: each part of the matrix is made once for them."""
ROUNDINGS = 100
"""How many times its last digit a number of a row may be off, squared."""
ROUNDED = 1e-3
"""How far the derivative of a cross-entropy by the logits may be from softmax - label, in 16 bits."""


def trak(
    queries: Float[Tensor, "queries dims"],
    examples: Float[Tensor, "examples dims"],
    factors: Float[Tensor, " examples"] | None = None,
    damping: float = 0.1,
) -> Float[Tensor, "queries examples"]:
    """The values of one model from the projected gradients of an output function.

    Args:
        queries: Gradient of each query's output, projected.
        examples: Gradient of each example's output, by the same projection.
        factors: How much each example's loss changes with its output, without the sign: 1 - p of the given label for margins; None for 1.
        damping: Added to the diagonal of the examples' second moments, as a part of its mean.

    Returns:
        In double precision; above 0 where the example helps the query.

    Raises:
        ValueError: The second moments are singular; says what helps.
    """
    eps = torch.finfo(examples.dtype).eps
    examples = examples.to(torch.float64)
    kernel = _solved(examples.mT @ examples, queries.to(torch.float64), damping, eps) @ examples.mT
    return kernel if factors is None else kernel * factors.to(torch.float64)


def _solved(moments: Tensor, queries: Tensor, damping: float, eps: float) -> Tensor:
    """Each query times the inverse of the damped second moments.

    Args:
        moments: Second moments of the examples' rows, not damped.
        queries: A row for each query.
        damping: Added to the diagonal, as a part of its mean.
        eps: The last digit of the rows.

    Returns:
        As many rows as there are queries.

    Raises:
        ValueError: These are singular.
    """
    dims, scale = len(moments), float(moments.trace()) / len(moments)
    if not math.isfinite(scale):
        raise ValueError("a gradient is not finite; look for NaN and overflow in the model")
    if not scale > 0:
        raise ValueError("the gradients of all examples are 0, so that none of them moves the model")
    damped = moments + damping * scale * torch.eye(dims, dtype=moments.dtype)
    lower, failed = torch.linalg.cholesky_ex(damped)
    # A column that depends on the others leaves a pivot of rounding alone: of the rows, squared, or of their products.
    rounding = dims * max(torch.finfo(moments.dtype).eps, ROUNDINGS * eps**2)
    if bool(failed) or not float(lower.diagonal().square().min()) > rounding * float(damped.diagonal().max()):
        rank = int(torch.linalg.matrix_rank(moments, hermitian=True, rtol=rounding))
        raise ValueError(
            f"the second moments of {dims} projected numbers have rank {rank}, and with damping={damping:g} no inverse; choose a damping above "
            f"{damping:g}, such as 0.1, or a smaller projection"
        )
    return torch.cholesky_solve(queries.mT, lower).mT


@dataclasses.dataclass(frozen=True)
class Projector:
    """Gradients of an output function, projected.

    Attributes:
        output: As `Trak` takes it.
        projection: `dense` or `kronecker`.
        numbers: Dimensions of a dense projection; of a Kronecker projection those of each side.
        seed: Seed of the projection.
    """

    output: str = "margin"
    projection: str = "dense"
    numbers: int = 512
    seed: int = 0

    @property
    def title(self) -> str:
        """All that the rows depend on beside model and examples."""
        return f"{self.output}_gradients:projection={self.projection},numbers={self.numbers},seed={self.seed}"

    def __call__(self, batches: Iterable[Batch], labels: Int[Tensor, " rows"] | None) -> Iterator[Float[Tensor, "block dims"]]:
        """The projected gradient of every row of the batches, in their order, on the CPU.

        Args:
            batches: Batches of one model.
            labels: Class of each row by its position; None for losses.

        Yields:
            Blocks of rows.

        Raises:
            UsageError: The losses are no cross-entropies of logits, or a parameter is in no layer that a Kronecker projection knows.
        """
        each = self._sides if self.projection == "kronecker" else self._whole
        yield from each((batch, self._cotangents(batch, labels, check=place == 0)) for place, batch in enumerate(batches))

    def _cotangents(self, batch: Batch, labels: Tensor | None, *, check: bool) -> Tensor | None:
        if labels is None:
            return None
        own = labels[batch.positions]
        with torch.no_grad():
            logits = _logits(batch, self.output)
        own = own.to(logits.device)
        given = torch.nn.functional.one_hot(own, logits.shape[1]).to(logits.dtype)
        if check:
            _check_cross_entropies(batch, logits.softmax(1) - given, self.output)
        if self.output not in OUTPUTS:
            return _own_derivative(own_function(self.output)[0], logits, own, self.output)
        return log_odds_derivative(logits, own) if self.output == "margin" else given

    def _whole(self, pairs: Iterable[tuple[Batch, Tensor | None]]) -> Iterator[Tensor]:
        held: list[Mapping[str, Tensor]] = []
        size = 0
        for batch, cotangents in pairs:
            names = tuple(batch.params)
            for _, gradients in batch.grads(names, cotangents):
                # What has no more numbers than the projection would have stays as it is.
                if sum(value[0].numel() for value in gradients.values()) <= self.numbers:
                    flat = torch.cat([gradients[name].flatten(1) for name in names], 1)
                    yield flat.to(torch.promote_types(flat.dtype, torch.float32)).cpu()
                    continue
                held.append(gradients)
                size += sum(value.nbytes for value in gradients.values())
                if size >= GRADIENT_BYTES:
                    yield from self._projected(held)
                    held, size = [], 0
        if held:
            yield from self._projected(held)

    def _projected(self, chunks: Sequence[Mapping[str, Tensor]]) -> Iterator[Tensor]:
        yield from (part.cpu() for part in project_chunks(chunks, self.numbers, self.seed))

    def _sides(self, pairs: Iterable[tuple[Batch, Tensor | None]]) -> Iterator[Tensor]:
        for batch, cotangents in pairs:
            layers: dict[object, list[Tensor]] = {}
            try:
                for pair in batch.layer_pairs(tuple(batch.params), cotangents):
                    layers.setdefault(pair.matrix, []).append(project_pairs(pair, self.numbers, self.seed).cpu())
            except UsageError as error:
                raise UsageError(f"projection=kronecker: {str(error).rstrip('.')}; choose projection=dense.") from error
            yield torch.cat([torch.cat(parts) for parts in layers.values()], 1)


def own_function(name: str) -> tuple[Callable[[Tensor, Tensor], Tensor], str]:
    """A user's output function by its dotted name.

    Args:
        name: `package.module.function`, and after an `@` the digest of its code that it must have.

    Returns:
        The function, and its name with the digest.

    Raises:
        UsageError: There is no such function of Python, it cannot be imported, or its code is another.
    """
    dotted, _, wanted = name.partition("@")
    module, _, last = dotted.rpartition(".")
    found: Any = getattr(_module(module, name), last, None)
    code = getattr(found, "__code__", None)
    if code is None:
        raise UsageError(
            f"output={name}: {module} has no function of Python of that name; give {', '.join(OUTPUTS)}, or the dotted name of your function of logits and "
            "classes."
        )
    # The digest stands in the title, so that values of another function are never taken for those of this one.
    digest = _digest(code)[:8]
    if wanted and wanted != digest:
        raise UsageError(
            f"output={name}: the function's code is another now, {digest}; leave out what stands after the @ to use it."
        )
    return found, f"{dotted}@{digest}"


def _module(module: str, name: str) -> types.ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent == module.partition(".")[0]:
            # The current folder is not searched: a run's own file may name a function, and a folder from a stranger must run no code.
            why = (
                f"Python finds no module {absent} on its path, on which the current folder need not be; set PYTHONPATH to the folder that holds it "
                f"(PYTHONPATH=. is the current one), or give {', '.join(OUTPUTS)}"
            )
        elif absent is not None and f"{module}.".startswith(f"{absent}."):
            why = f"there is no module {absent}; give the dotted name of a function that is there"
        else:
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
            why = f"{module} cannot be imported ({said}); mend that first"
        raise UsageError(f"output={name}: {why}.") from error


def _digest(code: types.CodeType) -> str:
    """Hash of a function's own code; what it calls does not count."""
    consts = [_digest(one) if isinstance(one, types.CodeType) else repr(one) for one in code.co_consts]
    return fingerprint(code.co_code, repr(code.co_names), *consts)


def _own_derivative(function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor, name: str) -> Tensor:
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        values = function(leaf, labels)
        if not isinstance(values, Tensor) or values.shape != labels.shape or not values.requires_grad:
            what = f"a tensor of shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise UsageError(
                f"output={name} gives {what} for logits of shape {tuple(logits.shape)}; let it give one number for each row that depends on the logits."
            )
        return torch.autograd.grad(values.sum(), leaf)[0]


def _logits(batch: Batch, output: str) -> Tensor:
    try:
        return batch.outputs({}).detach()
    except UsageError as error:
        raise UsageError(f"output={output}: {str(error).rstrip('.')}; choose output=loss.") from error


def _check_cross_entropies(batch: Batch, expected: Tensor, output: str) -> None:
    try:
        first = batch.output_derivatives()[0]
        same = first.shape == expected.shape and bool((first.to(expected) - expected).abs().max() <= ROUNDED)
    except UsageError:
        same = False
    if not same:
        raise UsageError(
            f"output={output} is for losses that are the cross-entropy of the model's logits with the given label, and these are not; choose "
            "output=loss."
        )


def _missing(batches: Iterable[Batch], labels: Tensor, output: str) -> Iterator[Tensor]:
    """1 - p of the given label of each row, as a column."""
    for batch in batches:
        with torch.no_grad():
            logits = _logits(batch, output).to(torch.float64)
        own = labels[batch.positions].to(logits.device)[:, None]
        # The sum over the other classes, which does not round to 0 where p is nearly 1.
        yield logits.softmax(1).scatter(1, own, 0.0).sum(1, keepdim=True).cpu()


@dataclasses.dataclass(frozen=True)
class Trak(AbstractAttributor):
    """Above 0 the example raises the query's margin (lowers its loss), below 0 it lowers it: a similarity of gradients, weighed by what the model still misses.

    The projected gradients of the examples are kept in the run's folder (features/), so that other queries cost their own gradients and one pass over
    these; of a loop of your own they are made in each call.

    Args:
        target: The queries: a target that is a mean over rows.
        output: Function whose gradients are compared: `margin`, log p - log(1 - p) of the given label; its `logit`; the `loss`; or a function of your own by its dotted
            name, `package.module.function`: of logits (batch, classes) and classes (batch,), it gives a number for each row. The title then holds a digest of
            its own code.
        kernel: `trak`; or gradients as they are, by their inner products (`dot`) or their `cosine` (0 where a gradient is 0).
        projection: `dense`, of the whole gradient; or `kronecker`, which projects inputs and output gradients of each layer and never makes the
            gradient (with output=loss: LoGra).
        project: Dimensions of a dense projection; gradients that have no more are not projected.
        side: Dimensions of each side of a layer in a Kronecker projection; sides that have no more are not projected.
        seed: Seed of the projection.
        checkpoints: The mean over the kept models of how many epochs: the `last`, `all`, or a number of them, counted from the end.
        damping: Added to the diagonal of the second moments of the projected gradients, as a part of its mean.
    """

    target: str = "validation"
    output: str = "margin"
    kernel: Literal["trak", "dot", "cosine"] = "trak"
    projection: Literal["dense", "kronecker"] = "dense"
    project: int = 512
    side: int = 16
    seed: int = 0
    checkpoints: Literal["last", "all"] | int = "last"
    damping: float = 0.1
    name: ClassVar[str] = "trak"
    direction: ClassVar[Direction] = Direction.LOW_IS_SUSPECT
    unit: ClassVar[str] = RANK_ONLY
    source: ClassVar[Source] = Source(
        "Park et al. 2023, section 3; Choe et al. 2024, section 3, for Kronecker projections",
        "https://arxiv.org/abs/2303.14186",
        "the second moments are damped; random signs instead of normal numbers; gradients with fewer numbers than the projection are not projected; "
        "values are not thresholded; with output=loss there is no factor 1 - p, because the loss is the output, and with a function of your own there is none either",
    )

    def __post_init__(self):
        super().__post_init__()
        for name, value in (("project", self.project), ("side", self.side), ("checkpoints", self.checkpoints)):
            if isinstance(value, int) and value < 1:
                raise UsageError(f"{self.title}: {name}={value} is below 1.")
        if not (math.isfinite(self.damping) and self.damping >= 0):
            raise UsageError(f"{self.title}: damping={self.damping} is not a number from 0 on.")
        if self.output not in OUTPUTS:
            parts = self.output.partition("@")[0].split(".")
            if len(parts) < 2 or not all(map(str.isidentifier, parts)):
                raise UsageError(
                    f"{self.title}: output={self.output} is none of {', '.join(OUTPUTS)}, and no dotted name of a function of yours; give one of these, "
                    "such as mine.gap for gap in mine.py."
                )
            object.__setattr__(self, "output", own_function(self.output)[1])
        unread = {
            "project": f"projection={self.projection}" if self.projection == "kronecker" else "",
            "side": f"projection={self.projection}" if self.projection == "dense" else "",
            "damping": f"kernel={self.kernel}" if self.kernel != "trak" else "",
        }
        for field in dataclasses.fields(self):
            if unread.get(field.name) and getattr(self, field.name) != field.default:
                raise UsageError(f"{self.title}: {field.name} is not read with {unread[field.name]}; leave it out.")

    @property
    def reads(self) -> frozenset[Need]:  # type: ignore[override]
        """The kept models; for outputs of a label also the labels."""
        return frozenset({Need.CHECKPOINTS} if self.output == "loss" else {Need.CHECKPOINTS, Need.LABELS})

    @property
    def query_set(self) -> str:
        return self.target

    @property
    def _projector(self) -> Projector:
        numbers = self.side if self.projection == "kronecker" else self.project
        return Projector(self.output, self.projection, numbers, self.seed)

    def _epochs(self, kept: Sequence[int]) -> list[int]:
        trained = [epoch for epoch in kept if epoch >= 0]
        wanted = (
            self.checkpoints if isinstance(self.checkpoints, int) else 1 if self.checkpoints == "last" else max(1, len(trained))
        )
        if wanted > len(trained):
            raise MissingEvidence(
                f"{self.title} compares gradients of {wanted} models after training, and the run kept {len(trained)}; record with "
                "Recording(checkpoints='every') (`--checkpoints every`), or leave checkpoints= out."
            )
        return trained[-wanted:]

    def attribute(self, evidence: Evidence, room: int = ROOM) -> Iterator[Block]:
        """Some queries by all examples at a time: as many as have projected gradients and rows of at most `room` bytes together, at least one.

        Yields:
            Whole rows, from the first query on.

        Raises:
            NumericalError: The second moments are singular.
        """
        stored = self._stored(evidence)
        queries, examples, factors = evidence.queries(self.target), len(evidence.ids), self._factors(evidence)
        labels = None if self.output == "loss" else queries.labels
        moments = [self._moments(one) for _, one in stored]
        step = max(1, room // (8 * (examples + max(one.dims for _, one in stored))))
        for start in range(0, len(queries.ids), step):
            rows = slice(start, min(start + step, len(queries.ids)))
            values = torch.zeros(rows.stop - rows.start, examples, dtype=torch.float64)
            for (model, one), second in zip(stored, moments, strict=True):
                asked = torch.cat([*self._projector(model.queries(self.target, rows), labels)])
                self._add(values, asked.to(torch.float64), one, second)
            yield Block(rows, slice(0, examples), values / len(stored) * factors, _told(stored))

    def _stored(self, evidence: Evidence) -> list[tuple[Model, ExampleRows]]:
        """The chosen models and the projected gradients of all examples."""
        labels = None if self.output == "loss" else evidence.labels
        models = [evidence.checkpoints.at(epoch) for epoch in self._epochs(evidence.checkpoints.kept)]
        make = self._projector
        return [(model, model.rows(make.title, lambda batches: make(batches, labels))) for model in models]

    def _factors(self, evidence: Evidence) -> Tensor:
        """1 - p of each example, the mean over the chosen epochs of every model of the recording; 1 where the kernel has no such factor."""
        if self.kernel != "trak" or self.output not in ("margin", "logit"):
            return torch.ones(len(evidence.ids), dtype=torch.float64)
        parts = []
        for source in evidence.models:
            for epoch in self._epochs(source.kept):
                stored = source.at(epoch).rows("missing", lambda batches: _missing(batches, evidence.labels, self.output))
                parts.append(torch.cat([block for _, block in stored.blocks()])[:, 0])
        return torch.stack(parts).mean(0)

    def _moments(self, stored: ExampleRows) -> tuple[Tensor, float] | None:
        """The second moments of the examples' rows, and the last digit of these; None where the kernel has none."""
        if self.kernel != "trak":
            return None
        moments, eps = torch.zeros(stored.dims, stored.dims, dtype=torch.float64), 0.0
        for _, block in stored.blocks():
            eps = torch.finfo(block.dtype).eps
            block = block.to(torch.float64)
            moments.addmm_(block.mT, block)
        return moments, eps

    def _add(self, values: Tensor, queries: Tensor, stored: ExampleRows, moments: tuple[Tensor, float] | None) -> None:
        """Add the kernel of one model."""
        if moments is not None:
            try:
                queries = _solved(moments[0], queries, self.damping, moments[1])
            except ValueError as error:
                raise NumericalError(f"{self.title}: {error}.") from error
        elif self.kernel == "cosine":
            queries = _units(queries)
        for part, block in stored.blocks():
            block = block.to(torch.float64)
            values[:, part] += queries @ (_units(block) if self.kernel == "cosine" else block).mT


def _told(stored: Sequence[tuple[Model, ExampleRows]]) -> dict[str, object]:
    one = stored[-1][1]
    return {
        "checkpoints": len(stored),
        "dimensions": one.dims,
        "bytes per example and model": one.bytes,
        "kept with the run": "yes" if one.kept else "no",
    }


def _units(rows: Tensor) -> Tensor:
    """Rows of length 1; those of 0 stay 0."""
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(norms > 0, norms, torch.ones_like(norms))

"""Current scores of a method that is computed during training."""

from typing import Any

from ..core.errors import MissingEvidence
from ..core.scores import Scores, ordered
from ..replay.live_methods import LiveMethods


class Live:
    """Current scores of a method that is computed during training."""

    def __init__(self, alongside: LiveMethods, title: str, writes: bool = True):
        self._alongside, self.title, self._writes = alongside, title, writes

    def scores(self) -> Scores:
        """The current score of each example.

        Raises:
            MissingEvidence: The method has seen too few epochs or steps yet, or cannot go on.
        """
        if not self._writes:
            raise MissingEvidence(f"{self.title} is computed in process 0, which writes the run; ask for its scores there.")
        for scores in self._alongside.scores():
            if scores.title == self.title and len(scores):
                return scores
        if self.title in self._alongside.silent:
            raise MissingEvidence(f"{self.title} says nothing: {self._alongside.silent[self.title]}")
        raise MissingEvidence(f"{self.title} has not seen enough yet; let training go on.")

    def worst(self, count: int = 10) -> list[tuple[Any, float]]:
        """Ids and values of the most harmful, most suspect or hardest examples at present, the worst one first."""
        scores = self.scores()
        places = ordered(scores.hardness(), scores.ids, descending=True)[:count].tolist()
        return [(scores.ids.values[place], float(scores.values[place])) for place in places]

    def __str__(self) -> str:
        return "\n".join([f"{self.title}: first ids by now", *(f"  {name!s:>12}  {value: .4g}" for name, value in self.worst())])

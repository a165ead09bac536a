"""One file per learner: a classifier that a game trains on subsets of the examples. `catalogue()` finds ours and those of other packages."""

from ..core import options
from ..core.catalogue import Catalogue
from ..core.learner import AbstractLearner

LEARNERS: Catalogue[AbstractLearner] = Catalogue("learner", AbstractLearner, __name__, asked="a method's option learner=NAME")  # type: ignore[type-abstract]
catalogue, find = LEARNERS.classes, LEARNERS.find

DOTTED = "sklearn."
"""How the name of a class of scikit-learn begins."""


def parse(spec: str | AbstractLearner) -> AbstractLearner:
    """The learner that `"name"` or `"name:option=value+option=value"` describes; a learner object is returned as it is.

    Options are joined by `+`, because a learner is itself an option of a method, and a method's options are joined by commas. `sklearn.MODULE.CLASS`
    is any classifier of scikit-learn, with the parameters of its constructor as options.

    Raises:
        UnknownName: No such learner or option.
        UsageError: An option does not take the given value.
    """
    if isinstance(spec, AbstractLearner):
        return spec
    name, colon, rest = spec.partition(":")
    if name.strip().startswith(DOTTED):
        return options.build(find("sklearn"), "learner", {"estimator": name.strip(), "settings": rest})
    name, given = options.split(name + colon + rest.replace("+", ","))
    return options.build(find(name), "learner", given)

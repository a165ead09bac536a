"""One file per policy. `catalogue()` finds ours and those of other packages, `live_catalogue()` the policies that choose during training."""

from collections.abc import Mapping

from ..core import options
from ..core.catalogue import Catalogue
from ..core.errors import UsageError
from ..core.live_selection import AbstractLiveSelector
from ..core.selection import AbstractSelector

POLICIES: Catalogue[AbstractSelector] = Catalogue(
    "policy",
    AbstractSelector,  # type: ignore[type-abstract]
    __name__,
    asked="`assay choose --policy NAME`",
)
LIVE: Catalogue[AbstractLiveSelector] = Catalogue(
    "live selector",
    AbstractLiveSelector,  # type: ignore[type-abstract]
    __name__,
    asked="`assay record --select NAME`",
    group="assay.live_policies",
)
catalogue, live_catalogue = POLICIES.classes, LIVE.classes


def find(name: str) -> type[AbstractSelector]:
    """The policy of that name.

    Returns:
        The class itself, not an instance.

    Raises:
        UnknownName: There is no such policy; the message gives the nearest names.
        UsageError: The policy chooses during training, or is of another package and cannot be used.
    """
    if not POLICIES.knows(name) and LIVE.knows(name):
        raise UsageError(
            f"{name} chooses before every epoch, while training goes on, and not by a score; record with it: `assay record --select {name}`."
        )
    return POLICIES.find(name)


def parse(spec: str | AbstractSelector, given: Mapping[str, object] | None = None) -> AbstractSelector:
    """The policy that `"name"` or `"name:option=value,..."` describes; options in `given` win. A policy object is returned as it is.

    Returns:
        An instance with its options checked.

    Raises:
        UnknownName: No such policy or option.
        UsageError: An option does not take its value, or options are given together with a policy object.
    """
    if isinstance(spec, str):
        find(options.split(spec)[0])
    return POLICIES.parse(spec, given)


def parse_live(spec: str | AbstractLiveSelector, given: Mapping[str, object] | None = None) -> AbstractLiveSelector:
    """The live selector that `"name"` or `"name:option=value,..."` describes; options in `given` win. A live selector object is returned as it is.

    Returns:
        An instance with its options checked.

    Raises:
        UnknownName: No such live selector or option.
        UsageError: An option does not take its value, options are given together with an object, or it is a policy that chooses by scores.
    """
    # A name of ours stays ours, also where a package has a policy of the other kind by that name.
    if isinstance(spec, str) and not LIVE.knows(name := options.split(spec)[0]) and POLICIES.knows(name):
        raise UsageError(
            f"{name} chooses once, by a score, and not before every epoch; score a recorded run and use assay.choose, or select by "
            f"{', '.join(live_catalogue())}."
        )
    return LIVE.parse(spec, given)

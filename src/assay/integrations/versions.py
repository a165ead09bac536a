"""The versions of other libraries that are tested, and the sentence where one keeps what the recorder needs elsewhere."""

import importlib.metadata
from collections.abc import Mapping

from torch.utils.data import DataLoader

from ..core.errors import UsageError

TESTED: Mapping[str, str] = {
    "transformers": "4.57 and 5.24",
    "accelerate": "1.10 and 1.15",
    "lightning": "2.5.6 and 2.6.6",
    "skorch": "1.3.1 and 1.4.0",
}
"""By the name of the package; as docs/integrations.md has them."""


def unknown_version(package: str, lacks: str) -> UsageError:
    """The error where a library lacks something that the recorder looks at.

    Args:
        package: Its name.
        lacks: What, and where it was looked for, as the end of "This version of it has ...".
    """
    try:
        installed = f" ({importlib.metadata.version(package)})"
    except importlib.metadata.PackageNotFoundError:
        installed = ""
    return UsageError(
        f"This version of {package}{installed} has {lacks}, so assay does not know it; install one that is tested, {TESTED[package]}, or record a loop of your "
        "own by assay.record."
    )


def check_has(package: str, owner: object, *names: str) -> None:
    """Refuse a version of a library whose object lacks an attribute.

    Raises:
        UsageError: Names the first that is absent.
    """
    if absent := [name for name in names if not hasattr(owner, name)]:
        raise unknown_version(package, f"no {absent[0]} in {type(owner).__name__}")


def check_prepared(loader: DataLoader) -> None:
    """Refuse a loader that a version of accelerate prepared which keeps the loader inside elsewhere.

    Raises:
        UsageError: It is one.
    """
    from_accelerate = any(kind.__module__.partition(".")[0] == "accelerate" for kind in type(loader).__mro__)
    if from_accelerate and not isinstance(vars(loader).get("base_dataloader"), DataLoader):
        raise unknown_version("accelerate", f"no base_dataloader in {type(loader).__name__}")

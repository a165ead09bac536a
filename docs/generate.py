"""Write docs/methods.md, docs/policies.md and docs/data.md from the catalogues: `make docs`. A test holds them against the code."""

import dataclasses
import pathlib

import torch

from assay import data, methods, nets, policies

HERE = pathlib.Path(__file__).parent


def options_of(cls) -> str:
    """The options of a catalogue entry with their defaults, as code."""
    parts = []
    for field in dataclasses.fields(cls):
        bare = field.default is dataclasses.MISSING
        parts.append(f"`{field.name}`" if bare else f"`{field.name}={field.default}`")
    return ", ".join(parts) or "none"


def score_of(cls) -> str:
    """Whether a policy chooses by a score."""
    return "yes" if cls.needs_score else "may be given" if cls.ignores_score else "no"


def cell(text: str) -> str:
    """A text inside a table."""
    return text.replace("|", "\\|")


def methods_page() -> str:
    """The table of scoring methods."""
    rows = [
        "# Scoring methods",
        "",
        "Made by `make docs` from the methods themselves; `assay methods` prints the same. *Direction* says what a large value means:",
        "only methods that rank suspects may be asked which labels are wrong, difficulty is not dirt. *Reads* are the facts that a run",
        "must have recorded; all but `logits` are always there.",
        "",
        "| method | direction | unit | reads | options | source | departures from it |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, cls in methods.METHODS.own.items():
        needs = ", ".join(f"`{need}`" for need in sorted(need.value for need in cls().reads))
        source = f"[{cls.source.cite}]({cls.source.url})"
        rows.append(
            f"| `{name}` | {cls().direction.value} | {cls().unit} | {needs} | {options_of(cls)} | {source} | {cell(cls.source.departures)} |"
        )
    return "\n".join(rows) + "\n"


def parameters_of(cls) -> str:
    """How many parameters a net has by default, on colour images of 32 x 32 pixels and 10 classes."""
    with torch.device("meta"):
        model = cls().module((3, 32, 32), 10)
    return f"{sum(parameter.numel() for parameter in model.parameters()):,}"


def data_page() -> str:
    """The tables of datasets and nets."""
    rows = [
        "# Data and nets",
        "",
        "Made by `make docs` from the readers and nets themselves; `assay datasets` and `assay nets` print the same. Options without a value must be given. Nothing is fetched by itself: what is absent or damaged says where it is to be had, and its checksum.",
        "A path may stand in the place of a name: of a folder of images, an .npz file, a CSV or Parquet file.",
        "",
        "| dataset | what it is | options |",
        "|---|---|---|",
        *(f"| `{name}` | {cell(cls.summary)} | {options_of(cls)} |" for name, cls in data.DATASETS.own.items()),
        "",
        "Images of `folder` whose part takes more than `memory` GB when it is decoded, and all of `imagenet` and `tiny_imagenet`, stay on disk: several threads decode each",
        "batch while the one before is trained on. Results are those of the same images in memory, to the bit. What asks for all inputs at once (features=inputs) decodes all,",
        "and is refused where they do not fit into the machine.",
        "",
        "## What can be planted",
        "",
        "`--plant KIND:option=value,...` or the table `plant` of a plan; the truth is kept aside, and no method sees it. Draws depend on seed and id only.",
        "",
        "| kind | what is made wrong | options |",
        "|---|---|---|",
        "| `uniform` | labels, each other class equally likely | `rate` |",
        "| `pair` | labels, to the next class | `rate` |",
        "| `class` | labels, by a matrix of chances | `matrix`, in a plan |",
        "| `human` | labels, as people gave them (CIFAR-10N, CIFAR-100N, or one number for each row) | `labels`, `column` |",
        "| `blur` | images, by a Gaussian kernel of `kernel` pixels and deviation `strength` | `rate`, `strength=5`, `kernel=5` |",
        "| `noise` | images, by Gaussian noise of deviation `strength`, of 1 | `rate`, `strength=0.1` |",
        "| `rotation` | images, by up to `strength` degrees either way | `rate`, `strength=15` |",
        "| `contrast` | images, by a factor of up to 1 plus or minus `strength` | `rate`, `strength=0.5` |",
        "| `mixed` | images, each by noise (0.1), a rotation (up to 15 or 20 degrees) or contrast (1 plus or minus up to 1), these ranges times `strength` | `rate`, `strength=1` |",
        "",
        "## Nets",
        "",
        "Parameters by default on 3x32x32 inputs and 10 classes. DNN 8-8 of influence papers is `mlp:widths=8-8`.",
        "",
        "| net | what it is | options | parameters |",
        "|---|---|---|---|",
        *(
            f"| `{name}` | {cell(cls.summary)} | {options_of(cls)} | {parameters_of(cls)} |"
            for name, cls in nets.NETS.own.items()
        ),
    ]
    return "\n".join(rows) + "\n"


def policies_page() -> str:
    """The table of policies."""
    rows = [
        "# Policies",
        "",
        "Made by `make docs` from the policies themselves; `assay policies` prints the same. *Nests*: whether a larger budget keeps",
        "everything that a smaller one keeps. *Score*: whether it chooses by one; where it does not, a run is enough, and where one may be",
        "given all the same it has no say, but for `metriq` without a seed. Options without a value must be given. `keep` is a fraction where it is written",
        "with a point (0.1; 1.0 is all), else how many stay (100).",
        "",
        "| policy | what it does | score | nests | options | source | departures from it |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, cls in policies.POLICIES.own.items():
        words = (cls.__doc__ or "").strip().splitlines()[0]
        source = f"[{cls.source.cite}]({cls.source.url})" if cls.source.url else cls.source.cite
        rows.append(
            f"| `{name}` | {cell(words)} | {score_of(cls)} | {'yes' if cls.nests else 'no'} | {options_of(cls)} | {source} | "
            f"{cell(cls.source.departures)} |"
        )
    rows += [
        "",
        "## Live selectors",
        "",
        "They choose before every epoch, while training goes on: `assay record --select NAME`; or in a loop of your own,",
        "`assay.record(..., select=assay.LiveSelection(NAME, epochs=HOW_MANY))`, which calls backward on the mean of weighted losses:",
        "",
        "    for x, y in recorder.epoch():",
        "        logits = model(x)",
        "        loss = recorder.weighted(F.cross_entropy(logits, y, reduction='none')).mean()",
        "        optimizer.zero_grad(); loss.backward(); optimizer.step()",
        "        recorder.batch(logits, y)",
        "",
    ]
    rows += ["| selector | what it does | options | source | departures from it |", "|---|---|---|---|---|"]
    for name, live in policies.live_catalogue().items():
        words, source = (live.__doc__ or "").strip().splitlines()[0], f"[{live.source.cite}]({live.source.url})"
        rows.append(f"| `{name}` | {cell(words)} | {options_of(live)} | {source} | {cell(live.source.departures)} |")
    return "\n".join(rows) + "\n"


PAGES = {"methods.md": methods_page, "policies.md": policies_page, "data.md": data_page}

if __name__ == "__main__":
    for file, page in PAGES.items():
        (HERE / file).write_text(page())

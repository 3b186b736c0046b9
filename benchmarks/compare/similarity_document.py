"""Write what `benchmarks.compare.similarity` found: which methods rank channels alike, in tables and heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

import gdp
from benchmarks.accuracy.jobs import rows_of
from benchmarks.accuracy.training import SIZES
from benchmarks.common.markdown import table
from benchmarks.compare.pictures import draw_matrix
from benchmarks.compare.processes import FAILED
from benchmarks.compare.ranks import families, ordered, overall, within_groups

NOISE = "polar, other batches"  # how alike a method ranks if only the batches are others
ALIKE = 0.9  # from this correlation on two methods are said to rank alike
SETTING = ("model", "size", "epochs", "steps")
URL = "https://papers.nips.cc/paper_files/paper/2021/hash/87ae6fb631f7c8a627e8e28785d9992d-Abstract.html"
WHAT = """## Which methods say the same

Huang et al. ([Rethinking the Pruning Criteria for Convolutional Neural Network]({url}), NeurIPS 2021)
report that several of the criteria that are cited and compared most rank filters almost identically, and so prune
similar structures. Here every method is asked about the same trained network: it watches, observes and learns in
{steps} steps of a run whose learning rate is 0. The window opens after half of them, and all FLOPs are allowed, so that
no channel has to go. What is compared is the importance per FLOP, by which channels are kept, by Spearman's rank
correlation: over all channels of the network, which says how many every group keeps, too; and within groups (the median
over groups), which is the criterion alone. *{noise}* is the same method after other batches: two methods that
correlate as much as it does with `polar` can't be told apart.

Methods whose gates learn have no reason to move them while all FLOPs are allowed: they are asked when channels would be
chosen for the last time on the way to half of the FLOPs ({learners}).
"""


def ranks_beside(out: Path) -> Path:
    """Return the CSV file of ranks that belongs to that of the comparison.

    Args:
        out: the CSV file of the comparison.
    """
    return out.with_name(f"{out.stem}_ranks.csv")


def similarity(out: Path) -> str:
    """Draw the heat maps, and return the part of the page about them; nothing if no method was asked.

    Args:
        out: the CSV file of the comparison.
    """
    settings: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows_of(ranks_beside(out)):
        settings.setdefault(tuple(row[name] for name in SETTING), []).append(row)
    parts = []
    for number, (setting, rows) in enumerate(settings.items()):
        picture = out.with_name(f"{out.stem}_ranks{number or ''}.svg")
        parts.append(section(rows, setting, picture))
    if not parts:
        return ""
    steps = ", ".join(dict.fromkeys(setting[-1] for setting in settings))
    learners = [f"`{name}`" for name in gdp.methods.names() if gdp.methods.get(name)().learns_from is not None]
    said = {"url": URL, "steps": steps, "noise": NOISE, "learners": ", ".join(learners)}
    return "\n".join([WHAT.format(**said), *parts])


def section(rows: Sequence[dict[str, str]], setting: tuple[str, ...], picture: Path) -> str:
    """Draw the heat maps of one network, and return its tables.

    Args:
        rows: of the methods that were asked.
        setting: network, size, epochs of its training, and steps.
        picture: path of the SVG file.
    """
    model, size, epochs, steps = setting
    good = [row for row in rows if not row[FAILED]]
    told = [np.array(row["ranks"].split(), dtype=float) for row in good]
    silent = [row["method"] for row, ranking in zip(good, told, strict=True) if np.ptp(ranking) == 0]
    names = [row["method"] for row in good if row["method"] not in silent]
    told = [ranking for ranking in told if np.ptp(ranking) > 0]

    # what is known of the network, and of those that give no ranks
    options = f"--data data/cifar10 --model {model}" + f" --size {size}" * (size != "smoke") + f" --steps {steps}"
    options += f" --epochs {float(epochs):g}" * (float(epochs) != SIZES[size].epochs)
    parts = [f"### {model}, trained dense, epochs: {float(epochs):g}\n"]
    parts += [f'    make bench BENCH=compare.similarity ARGS="{options}"\n']
    parts += [f"- `{row['method']}` failed: {row[FAILED]}" for row in rows if row[FAILED]]
    parts += [f"- `{name}` says the same of all channels." for name in silent]
    if len(names) < 2:
        return "\n".join([*parts, ""])

    # the correlations
    sizes = [int(n) for n in good[0]["groups"].split()]
    order = ordered(overall(told))
    names, told = [names[i] for i in order], [told[i] for i in order]
    whole, inside = overall(told), within_groups(told, sizes)
    draw_matrix(whole, inside, names, picture)
    parts += ["", f"![Rank correlations between methods]({picture.name})\n"]
    parts += [f"{len(sizes)} groups, {sum(sizes)} channels.\n", nearest_table(names, whole, inside)]
    parts += [families_text(names, whole, "over all channels"), families_text(names, inside, "within groups")]
    return "\n".join(parts)


def nearest_table(names: Sequence[str], whole: np.ndarray, inside: np.ndarray) -> str:
    """Return a table: for every method the one that ranks most like it.

    Args:
        names: of the methods.
        whole: rank correlations over all channels, shape (methods, methods).
        inside: the same within groups.
    """
    lines = [[f"`{name}`", *_nearest(names, whole, i), *_nearest(names, inside, i)] for i, name in enumerate(names)]
    return table(["method", "most like it, over all channels", "", "most like it, within groups", ""], lines)


def _nearest(names: Sequence[str], matrix: np.ndarray, i: int) -> list[str]:
    """Return the method that ranks most like another one, and their correlation."""
    others = np.where(np.arange(len(names)) == i, -np.inf, np.nan_to_num(matrix[i], nan=-np.inf))
    best = int(others.argmax())
    return [f"`{names[best]}`", f"{others[best]:.2f}"] if np.isfinite(others[best]) else ["", ""]


def families_text(names: Sequence[str], matrix: np.ndarray, where: str) -> str:
    """Return a sentence that says which methods rank alike, and which like no other.

    Args:
        names: of the methods.
        matrix: rank correlations, shape (methods, methods).
        where: the channels that are compared, in words.
    """
    found = [[names[i] for i in family if names[i] != NOISE] for family in families(matrix, ALIKE)]
    alike = "; ".join(", ".join(f"`{name}`" for name in family) for family in found if len(family) > 1) or "none"
    alone = ", ".join(f"`{family[0]}`" for family in found if len(family) == 1) or "none"
    return f"Correlated at {ALIKE} or more {where}: {alike}. Like no other: {alone}.\n"

"""Write the section of docs/coverage.md about networks of other packages from the records of its suite."""

from __future__ import annotations

import os
import platform

from benchmarks.common.machine import versions
from benchmarks.common.markdown import table
from benchmarks.coverage.document import median, reasons, share, wall_and_cpu
from benchmarks.coverage.measure import Record, controlled, counted, exact
from benchmarks.coverage.packages import package_of, packaged_names

TITLE = "## Other packages"  # the last section of the document
SECONDS = 20  # that a check may take, of a network with fewer than so many parameters
SMALL = 30e6
HALF = 0.5  # of the FLOPs: where less than that can go, the list says why

HEADER = ["network", "version", "input", "parameters", "FLOPs", "removable", "groups", "frozen", "error", "control"]
HEADER += ["FLOPs equal", "trains on", "check (s)"]

CAUSES = {
    "transformers.ConvNextV2": "layer norm and global response normalization take means over channels, in which a "
    "closed channel still counts; so stream and hidden channels stay, as in timm's convnextv2_atto",
    "spandrel.SPAN": "in eval mode its convolutions compute one kernel from the weights of four, with sums "
    "over channels of the weights",
    "torchaudio.HDemucs": "the first torch.export of a process takes 30 s of that itself: it unrolls the LSTMs",
    "ultralytics.yolo26n": "two groups, whose sizes are written in its forward, are found by halving 77, in 51 passes",
    "pytorchcv.sknet50": "16 groups, whose sizes are written in its forward, are found one by one, in 44 passes",
}


def with_packages(text: str, section: str) -> str:
    """Return a document with its section of other packages replaced, or added at the end.

    Args:
        text: the document.
        section: that begins with `TITLE`; an empty one is left out.
    """
    rest = text.partition(f"\n{TITLE}\n")[0].rstrip()
    return f"{rest}\n\n{section}".rstrip() + "\n"


def packages_of(text: str) -> str:
    """Return a document's section of other packages; empty if it has none.

    Args:
        text: the document.
    """
    return "".join(text.partition(f"{TITLE}\n")[1:])


def packages_section(records: list[Record]) -> str:
    """Return the section, from its title on.

    Args:
        records: of gdp on the suite of packages.
    """
    order = {name: i for i, name in enumerate(packaged_names())}
    records = sorted((r for r in records if r["name"] in order), key=lambda r: order[r["name"]])
    parts = [_head(), _summary(records), _exceptions(records), "### Every network\n", _networks(records)]
    parts += ["### What stays in them, and why\n", reasons(records)]
    return "\n".join(parts).rstrip() + "\n"


def _head() -> str:
    return f"""{TITLE}

    make coverage ARGS="--suite packages"

Networks of packages that gdp was not made for, built from their configurations with random weights; in an environment
of its own, `.venv-packages`, with the newest versions that pip found; {versions("torch", "fvcore")};
{platform.machine()} CPU, {os.cpu_count()} cores shared with other work, one thread. The columns are those of above, and

- **trains on**: a training step of the cut network in train mode gives every parameter a finite gradient.
- **check (s)**: seconds of `gdp.check(network, inputs)`, the first thing in a process of its own. The same network is
  traced, cut and trained afterwards, so what a check leaves behind would show.
"""


def _summary(records: list[Record]) -> str:
    packages = {p: [r for r in records if package_of(r["name"]) == p] for p in dict.fromkeys(map(_package, records))}
    rows = [_totals(f"{p} {_version(own)}", own) for p, own in packages.items()]
    header = ["package", "networks", "exact", "FLOPs equal", "trains on", "removable, median", "longest check (s)"]
    return table(header, [*rows, _totals("all", records)])


def _package(record: Record) -> str:
    return package_of(record["name"])


def _version(records: list[Record]) -> str:
    return next((r["version"] for r in records if "version" in r), "")


def _totals(title: str, records: list[Record]) -> list[str]:
    removable = [r["removable"] for r in records if "removable" in r]
    longest = max((r for r in records if "check_s" in r), key=lambda r: r["check_s"], default=None)
    return [
        title,
        str(len(records)),
        share(records, exact),
        share(records, counted),
        share(records, lambda r: r["step"] == "done"),
        f"{median(removable):.1%}" if removable else "",
        wall_and_cpu(longest["check_s"], longest["check_cpu_s"]) if longest else "",
    ]


def _exceptions(records: list[Record]) -> str:
    """Return all that is not as it should be, each with its cause where that was looked for, in one list."""
    found = [(r["name"], what) for r in records for what in _wrong(r)]
    lines = [f"- `{name}` {what}" + (f": {CAUSES[name]}" if name in CAUSES else "") for name, what in found]
    return "What is not as it should be:\n\n" + "\n".join(lines) + "\n" if lines else ""


def _wrong(record: Record) -> list[str]:
    """Return in words what is wrong with one network."""
    if "failed" in record:
        return [f"fails at step '{record['step']}' with \"{record['failed'][:160]}\""]
    slow = record["check_cpu_s"] > SECONDS and record["parameters"] < SMALL
    facts = {
        f"is not exact ({record['error']:.1e})": not exact(record),
        f"has a weak control ({record['opened']}, another input {record['input']:.1e})": not controlled(record),
        f"counts {record['flops_predicted']:,} FLOPs where fvcore counts {record['flops_cut']:,}": not counted(record),
        f"takes {record['check_s']:.1f} s ({record['check_cpu_s']:.1f} s CPU) to check": slow,
        f"can lose only {record['removable']:.1%} of its FLOPs": record["removable"] < HALF,
    }
    return [what for what, wrong in facts.items() if wrong]


def _networks(records: list[Record]) -> str:
    return table(HEADER, [_row(r) if "failed" not in r else _failed(r) for r in records])


def _failed(record: Record) -> list[str]:
    known = [f"`{record['name']}`", record.get("version", "")]
    return [*known, f"**{record['failed'][:110]}**", *[""] * (len(HEADER) - len(known) - 1)]


def _row(record: Record) -> list[str]:
    unused = f", {record['untrained']} parameters unused" if record["untrained"] else ""
    return [
        f"`{record['name']}`",
        record["version"],
        " x ".join(map(str, record["input_shape"])),
        f"{record['parameters'] / 1e6:.2f} M",
        f"{record['flops'] / 1e9:.2f} G",
        f"{record['removable']:.1%}",
        str(record["groups"]),
        str(sum(record["frozen"].values())),
        f"{record['error']:.0e}" + (" (64)" if record["dtype"] == "float64" else "") + _mark(exact(record)),
        ("-" if record["opened"] is None else f"{record['opened']:.0e}") + _mark(controlled(record)),
        "yes" if counted(record) else "**no**",
        "yes" + unused,
        wall_and_cpu(record["check_s"], record["check_cpu_s"]),
    ]


def _mark(good: bool) -> str:
    return "" if good else " **!**"

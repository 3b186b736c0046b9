"""Write docs/coverage.md from the records of the coverage run."""

from __future__ import annotations

import os
import platform
import re
from collections import Counter
from typing import Any

from benchmarks.common.machine import versions
from benchmarks.common.markdown import table
from benchmarks.coverage.measure import CONTROL, FAR, SHARE, TOLERANCE, Record, controlled, counted, exact
from benchmarks.coverage.models import names
from benchmarks.coverage.peer import PATIENCE

TITLES = {
    "torchvision": "torchvision: classification and segmentation",
    "detection": 'torchvision: backbones of the detection models (`module="backbone"`)',
    "timm": "timm, across its families",
}

NEXT_STEPS = """
Torch-Pruning prunes these where it runs; gdp leaves them as they are and says so:

- **Attention**: heads, and the dimensions inside a head. What goes into softmax(QKᵀ)V stays; the MLP behind it is
  pruned in most networks.
- **The stream of a transformer or ConvNeXt**: layer norm takes a mean over channels, so a closed channel is not the
  same as a removed one, and after Torch-Pruning the network computes something else than the masked one. Exact removal
  needs a layer norm that goes on dividing by the old width.

gdp leaves these alone as well; the table above says in how many networks:

- **Channels at fixed positions**: slices, splits of unequal parts, and blocks whose `forward` has sizes written in it.
- **What a computed weight reads** (weight standardisation, weight norm): its filters go, its inputs can't, because a
  filter is normalised over all of them.
- **Streams that are split in halves and shuffled again and again** (ShuffleNet): equal halves tie their channels until
  all are one unit; the branches are pruned.
- **Operators that are not in gdp's table**.
"""


def document(ours: list[Record], peers: list[Record]) -> str:
    """Return the whole document but for the section of other packages.

    Args:
        ours: records of gdp.
        peers: records of Torch-Pruning.
    """
    peer = {(r["suite"], r["name"]): r for r in peers}
    order = {key: i for i, key in enumerate((which, name) for which in TITLES for name in names(which))}
    ours = sorted((r for r in ours if (r["suite"], r["name"]) in order), key=lambda r: order[r["suite"], r["name"]])
    parts = [_head(), "## Summary\n", _summary(ours, peer), _exceptions(ours, peer)]
    for which, title in TITLES.items():
        records = [r for r in ours if r["suite"] == which]
        if records:
            parts += [f"## {title}\n", _models(records, peer)]
    parts += ["## What stays, and why\n", reasons(ours), "## Next steps\n" + NEXT_STEPS]
    return "\n".join(parts).rstrip() + "\n"


def _head() -> str:
    packages = ("torch", "torchvision", "timm", "fvcore", "torch-pruning")
    return f"""# Coverage

    make coverage

Every network at full size, with random weights and random BN statistics, in a process of its own with one thread;
{versions(*packages)};
{platform.machine()} CPU, {os.cpu_count()} cores shared with other work. Seconds are wall time; CPU time in brackets
where the two differ by more than a fifth.

For every network: trace, dry run, a random {SHARE:.0%} of **every** group closed at once, removal, one training step.

- **removable**: FLOPs that can go at most, one channel being left in every group.
- **error**: largest difference between the outputs of the gated and the cut network, relative to the largest output, on
  three inputs. At most {TOLERANCE:g} counts as exact; 64 marks where float32 could not decide and float64 did.
- **control**: the same figure with one closed group left open. A test of exactness proves nothing where this is small;
  at least {CONTROL:g}, and {FAR} times the error, is asked for, and that another input changes every output by as much.
- **FLOPs**: whether gdp's prediction equals fvcore's count of the cut network, as integers.
- **trains**: a training step in train mode, auxiliary heads included, gives every parameter a finite gradient.
- **Torch-Pruning**: seconds for its dependency graph and the listing of its groups in the same run, and whether the
  network runs, and trains, after `BasePruner` took {SHARE:.0%} of every layer (magnitude; layers that give class scores
  ignored, heads of attention declared). Given up after {PATIENCE} s per step or 12 GiB. Exactness is not asked of it.
"""


def share(records: list[Record], holds: Any) -> str:
    return f"{sum(map(holds, records))} of {len(records)}"


def _summary(ours: list[Record], peer: dict[tuple[str, str], Record]) -> str:
    columns = {w: [r for r in ours if r["suite"] == w] for w in TITLES if any(r["suite"] == w for r in ours)}
    peers = {w: [peer[w, r["name"]] for r in rs if (w, r["name"]) in peer] for w, rs in columns.items()}
    done = {w: [r for r in rs if "failed" not in r] for w, rs in columns.items()}

    # one line per figure, one column per set
    rows = [
        ["exact", *(share(rs, exact) for rs in columns.values())],
        ["errors", *(str(sum("failed" in r for r in rs)) for rs in columns.values())],
        ["not exact", *(str(sum(not exact(r) for r in rs)) for rs in done.values())],
        ["largest error", *(f"{max((r['error'] for r in rs), default=0):.1e}" for rs in done.values())],
        [
            "smallest control",
            *(f"{min((r['opened'] for r in rs if r['groups']), default=0):.1e}" for rs in done.values()),
        ],
        ["FLOPs equal", *(share(rs, counted) for rs in columns.values())],
        ["trains afterwards", *(share(rs, lambda r: r["step"] == "done") for rs in columns.values())],
        ["removable, median", *(f"{median([r['removable'] for r in rs]):.1%}" for rs in done.values())],
        ["seconds to trace, median", *(_seconds(rs, "trace", median) for rs in done.values())],
        ["seconds to trace, largest", *(_seconds(rs, "trace", max) for rs in done.values())],
        [
            "seconds of the dry run, largest",
            *(f"{max((r['dry_run_s'] for r in rs), default=0):.1f}" for rs in done.values()),
        ],
    ]
    if any(peers.values()):
        made = {w: [r for r in rs if "graph_s" in r] for w, rs in peers.items()}
        rows += [
            ["Torch-Pruning: graph is built", *(share(rs, lambda r: "graph_s" in r) for rs in peers.values())],
            ["Torch-Pruning: result runs", *(share(rs, runs) for rs in peers.values())],
            ["Torch-Pruning: result trains", *(share(rs, lambda r: r["step"] == "done") for rs in peers.values())],
            ["Torch-Pruning: seconds, median", *(_seconds(rs, "graph", median) for rs in made.values())],
            ["Torch-Pruning: seconds, largest", *(_seconds(rs, "graph", max) for rs in made.values())],
        ]
    return table(["", *(f"{w} ({len(rs)})" for w, rs in columns.items())], rows)


def runs(record: Record) -> bool:
    """Return whether Torch-Pruning's result got through a forward pass."""
    return record["step"] in ("train", "done")


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else float("nan")


def _seconds(records: list[Record], what: str, choose: Any) -> str:
    if not records:
        return ""
    wall, cpu = ([r[key] for r in records if key in r] for key in (f"{what}_s", f"{what}_cpu_s"))
    return wall_and_cpu(choose(wall), choose(cpu) if cpu else None)


def wall_and_cpu(wall: float, cpu: float | None) -> str:
    return f"{wall:.2f} ({cpu:.2f})" if cpu is not None and wall > 1.2 * cpu else f"{wall:.2f}"


def _models(records: list[Record], peer: dict[tuple[str, str], Record]) -> str:
    # gdp's columns, then Torch-Pruning's
    header = [
        "network",
        "FLOPs",
        "removable",
        "groups",
        "frozen",
        "error",
        "control",
        "FLOPs equal",
        "trains",
        "trace, s",
    ]
    rows = []
    for r in records:
        row = [r["name"]]
        if "failed" in r:
            row += ["**" + r["failed"].replace("\n", " ")[:110] + "**", *[""] * (len(header) - 2)]
        else:
            row += [
                f"{r['flops'] / 1e9:.2f} G",
                f"{r['removable']:.1%}",
                str(r["groups"]),
                str(sum(r["frozen"].values())),
                f"{r['error']:.0e}" + (" (64)" if r["dtype"] == "float64" else "") + ("" if exact(r) else " **!**"),
                ("-" if r["opened"] is None else f"{r['opened']:.0e}") + ("" if controlled(r) else " **!**"),
                "yes" if counted(r) else "**no**",
                "yes" if not r["untrained"] else f"yes, {r['untrained']} parameters unused",
                wall_and_cpu(r["trace_s"], r.get("trace_cpu_s")),
            ]
        rows.append([*row, *_of_peer(peer.get((r["suite"], r["name"])))])
    return table([*header, "Torch-Pruning, s", "its result"], rows)


def _of_peer(record: Record | None) -> list[str]:
    if record is None:
        return ["", "not run"]
    seconds = wall_and_cpu(record["graph_s"], record.get("graph_cpu_s")) if "graph_s" in record else ""
    where = {"graph": "no graph", "prune": "can't prune", "run": "does not run", "train": "runs, does not train"}
    fails = f"{where.get(record['step'], record['step'])}: {record.get('failed', '')[:60]}"
    return [seconds, "runs, trains" if record["step"] == "done" else fails]


def _exceptions(ours: list[Record], peer: dict[tuple[str, str], Record]) -> str:
    """Return every figure that is not what it should be, in one list."""
    found = []
    for r in ours:
        name, other = f"{r['suite']} `{r['name']}`", peer.get((r["suite"], r["name"]), {})
        if "failed" in r:
            found.append(f"{name} fails at step '{r['step']}': {r['failed']}")
            continue
        if not exact(r):
            found.append(f"{name} is not exact: {r['error']:.1e}")
        if not controlled(r):
            found.append(f"{name}: the control is weak (opened {r['opened']}, another input {r['input']:.1e})")
        if not counted(r):
            found.append(f"{name}: {r['flops_predicted']:,} FLOPs predicted, {r['flops_cut']:,} counted by fvcore")
        if r.get("trace_cpu_s", r["trace_s"]) > 3:
            found.append(f"{name} takes {r['trace_s']:.1f} s to trace ({r.get('trace_cpu_s', r['trace_s']):.1f} s CPU)")
        if r["dry_run_s"] > 10 or (r["suite"] == "torchvision" and r["dry_run_forwards"] > 7):
            found.append(f"{name}: the dry run takes {r['dry_run_s']:.1f} s and {r['dry_run_forwards']} passes")
        if other.get("graph_s", 0) > 1 and other["graph_s"] < 3 * r["trace_s"]:
            ratio = other["graph_s"] / r["trace_s"]
            found.append(f"{name}: Torch-Pruning's graph takes {other['graph_s']:.1f} s, {ratio:.1f} times gdp's trace")
    if not found:
        return ""
    return "What is not as it should be:\n\n" + "\n".join(f"- {line}" for line in found) + "\n"


def without_names(reason: str) -> str:
    """Return a reason without the names of modules and sizes, so that equal ones can be counted.

    Args:
        reason: why a channel is frozen.

    >>> without_names("layer_norm in encoder.layers.3.ln mixes channels")
    'layer_norm mixes channels'
    """
    short = re.sub(r" in [\w.]+", "", reason.partition("; a size may be")[0])
    return re.sub(r"\d+(\.\d+)?", "N", short) if "can't follow" in short else short


def reasons(ours: list[Record]) -> str:
    """Return a table of why parts stay: in how many networks, and how many parts.

    Args:
        ours: records of gdp.
    """
    layers: Counter[str] = Counter()
    networks: Counter[str] = Counter()
    for r in ours:
        own = Counter(dict.fromkeys(map(without_names, r.get("frozen", {})), 0))
        for reason, times in r.get("frozen", {}).items():
            own[without_names(reason)] += times
        layers.update(own)
        networks.update(own.keys())
    rows = [[k[:200], str(networks[k]), str(n)] for k, n in sorted(layers.items(), key=lambda i: -networks[i[0]])]
    return table(["reason", "networks", "frozen parts"], rows)

"""What is read off a record of a latency run: speed-ups of networks, milliseconds per GFLOP of convs."""

from __future__ import annotations

import statistics
from typing import Any

Record = dict[str, Any]

RUNTIMES = {
    "eager": "eager",
    "channels_last": "eager, channels last",
    "compile": "torch.compile",
    "onnxruntime": "onnxruntime",
}
NEAR = 0.25  # a layer's milliseconds per GFLOP count as those of the whole within this share


class Timing:
    """Compare a network's times with those of the dense network in the same turns.

    Args:
        dense: what was noted of the dense network.
        network: what was noted of the one that was cut.

    Attributes:
        remaining: fraction of the FLOPs.
        speed_up: median of dense / cut, with its quartiles in `quartiles`.
        saved: fraction of the time.
        share: fraction of the time saved over fraction of the FLOPs removed.
        ms: median milliseconds of dense and cut.
    """

    def __init__(self, dense: Record, network: Record) -> None:
        self.name, self.target = network["name"], network["target"]
        self.remaining = network["flops"] / dense["flops"]
        self.removed = 1 - self.remaining
        self.parameters_removed = 1 - network["parameters"] / dense["parameters"]
        ratios = [d / n for d, n in zip(dense["seconds"], network["seconds"], strict=True)]
        self.speed_up = statistics.median(ratios)
        self.quartiles = statistics.quantiles(ratios, n=4)[::2] if len(ratios) > 1 else [self.speed_up] * 2
        self.saved = 1 - 1 / self.speed_up
        self.share = self.saved / self.removed
        self.ms = [1e3 * statistics.median(n["seconds"]) for n in (dense, network)]


def timings(record: Record) -> list[Timing]:
    """Return one for every network that was cut; none where the runtime failed.

    Args:
        record: of several networks.
    """
    return [Timing(record["networks"][0], network) for network in record["networks"][1:]]


def line(record: Record) -> str:
    """Return a record in a few words.

    Args:
        record: of networks or of convs.
    """
    head = f"{record['model']} {record['size']}, {RUNTIMES[record['runtime']]}, batch {record['batch']}: "
    if record["kind"] == "layers":
        return head + spread(record)
    if "failed" in record:
        return head + record["failed"]
    times = (f"{t.name} at {t.remaining:.3f} {t.speed_up:.2f}x ({t.share:.0%} of FLOPs)" for t in timings(record))
    return head + ", ".join(times)


def title(record: Record) -> str:
    """Return network, images, runtime and batch of a record."""
    return "{model}, {size}x{size}, {way}, batch {batch}".format(way=RUNTIMES[record["runtime"]], **record)


def ways(records: list[Record]) -> list[tuple[str, int]]:
    """Return the runtimes and batch sizes that records have, in the order of RUNTIMES."""
    found = {(r["runtime"], r["batch"]) for r in records}
    return sorted(found, key=lambda way: (list(RUNTIMES).index(way[0]), way[1]))


def names(records: list[Record]) -> list[str]:
    """Return how networks of these records were cut, each way once."""
    return list(dict.fromkeys(n["name"] for r in records for n in r["networks"][1:]))


def rates(conv: Record) -> list[float]:
    """Return the milliseconds per GFLOP at every width; the last is the dense one.

    Args:
        conv: an entry of a record of convs.
    """
    return [ms / (flops / 1e9) for ms, flops in zip(conv["ms"], conv["flops"], strict=True)]


def spread(record: Record) -> str:
    """Return how milliseconds per GFLOP differ among the convs of a network, in a sentence.

    Args:
        record: of convs.
    """
    found = [rates(c)[-1] for c in record["convs"]]
    ms, flops = ([len(c["layers"]) * c[key][-1] for c in record["convs"]] for key in ("ms", "flops"))
    overall = sum(ms) / (sum(flops) / 1e9)
    near = sum(n for rate, n in zip(found, flops, strict=True) if abs(rate / overall - 1) <= NEAR) / sum(flops)
    more = [c["ms"][2] / c["ms"][1] - 1 for c in record["convs"]]
    return (
        f"{min(found):.1f} / {statistics.median(found):.1f} / {max(found):.1f} ms per GFLOP (lowest, median, highest "
        f"of {len(found)} shapes of conv), {overall:.1f} overall; {near:.0%} of the convs' FLOPs are in layers within "
        f"{NEAR:.0%} of that. Convs alone take {sum(ms):.0f} ms together, the whole network {record['ms']:.0f} ms. "
        f"One output more than a half costs {statistics.median(more):.0%} more time (median; {max(more):.0%} at most)."
    )

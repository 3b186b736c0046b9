"""Define Report: what a network cost before and after its cut, which channels are left, and how exact the cut was."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

from gdp.errors import GDPError
from gdp.graph import CutPlan, Frozen
from gdp.report.history import History
from gdp.report.plot import plot
from gdp.utils import AnyPath


@dataclass(frozen=True)
class Report:
    """Record of what `gdp.remove` did.

    Attributes:
        flops_before: FLOPs of one forward pass of the example input in the dense network, counted by fvcore (one fused
            multiply-add is one FLOP).
        flops_after: the same in the cut network.
        flops_predicted: FLOPs after the cut, computed from channel counts before it; equal to `flops_after`.
        params_before: elements of all parameters of the dense network.
        params_after: elements of all parameters of the cut network.
        groups: name, kept and total channels of every group.
        frozen: the channels that had to stay, and why.
        max_abs: largest absolute difference that any cut made to the network's outputs, on the example input and on
            random numbers of its shape.
        max_rel: the same, relative to the largest output.
        plan: which entries of which tensors were kept.
        blocks: residual branches that were removed as a whole; the constant that they added stays.
        dry_run: True if nothing was changed; this is the smallest network that `gdp.check` tried then.
        history: how the gates developed in training; see `plot`.
        notes: what else is to be known of the numbers, in sentences.
        failure: why closed channels were not cut when training was over, and the way out; None where they were.
    """

    flops_before: int
    flops_after: int
    flops_predicted: int
    params_before: int
    params_after: int
    groups: tuple[tuple[str, int, int], ...]
    frozen: tuple[Frozen, ...]
    max_abs: float
    max_rel: float
    plan: CutPlan
    blocks: tuple[str, ...] = ()
    dry_run: bool = False
    history: History = field(default_factory=History)
    notes: tuple[str, ...] = ()
    failure: str | None = None

    @property
    def remaining(self) -> float:
        """Fraction of the dense FLOPs that remains, in (0, 1]."""
        return self.flops_after / self.flops_before

    def plot(self, path: AnyPath) -> None:
        """Draw how the gates developed into a file.

        The picture shows for every step the distribution of gate values, FLOPs against what was allowed, lambda, and
        the open channels of every group.

        Args:
            path: of the picture; its ending says which format (png, svg, pdf).

        Raises:
            GDPError: no training run made this report, matplotlib is not installed, or the file can't be written.
        """
        if not self.history.steps:
            raise GDPError(
                "There is nothing to draw: this report is not that of a training run in which gates closed. Draw "
                "callback.report after fit."
            )
        plot(self.history, self.groups, self.remaining, path)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain containers of strings and numbers, without its plan."""
        return {
            **{k: v for k, v in vars(self).items() if type(v) in (int, float)},
            "groups": [list(g) for g in self.groups],
            "blocks": list(self.blocks),
            "frozen": [[f.name, f.channels, f.reason] for f in self.frozen],
            "history": self.history.to_dict(),
            "notes": list(self.notes),
            "failure": self.failure,
        }

    @classmethod
    def from_dict(cls, data: Any, plan: CutPlan) -> Report:
        """Return the report that `to_dict` wrote.

        Args:
            data: what `to_dict` returned; anything else is refused.
            plan: of the cut, which `to_dict` leaves out.

        Raises:
            GDPError: it is not a report.
        """
        other = ("groups", "frozen", "plan", "blocks", "dry_run", "history", "notes", "failure")
        try:
            groups = tuple((str(name), int(kept), int(total)) for name, kept, total in data["groups"])
            frozen = tuple(Frozen(str(name), int(channels), str(reason)) for name, channels, reason in data["frozen"])
            blocks = tuple(map(str, data["blocks"]))
            history = History.from_dict(data["history"]) if "history" in data else History()
            failure = None if data.get("failure") is None else str(data["failure"])
            notes = tuple(map(str, data.get("notes", ())))
            numbers = {f.name: data[f.name] for f in fields(cls) if f.name not in other}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GDPError(f"Expected the report of a pruning, but reading it failed: {error!r}.") from error
        found = cls(**numbers, groups=groups, frozen=frozen, plan=plan, blocks=blocks, history=history)
        return replace(found, notes=notes, failure=failure)

    def __str__(self) -> str:
        # totals of the network
        title = "gdp: the smallest network (dry run; nothing was changed)" if self.dry_run else "gdp: what is left"
        sizes = Table("", "dense", "pruned", "remains", title=title)
        for label, before, after in (
            ("FLOPs (fvcore, multiply-adds)", self.flops_before, self.flops_after),
            ("parameters", self.params_before, self.params_after),
        ):
            sizes.add_row(label, f"{before:,}", f"{after:,}", f"{after / before:.1%}")

        # one row per group, with a bar of at most 24 characters
        groups = Table("channel group", "kept", "of", "", title="channels")
        for name, kept, total in self.groups:
            groups.add_row(name, str(kept), str(total), "#" * round(24 * kept / total))
        tables = [sizes, groups]

        # one row per layer whose channels had to stay
        if self.frozen:
            frozen = Table("left alone", "channels", "reason", title="channels that must stay")
            for layer in self.frozen:
                frozen.add_row(layer.name, str(layer.channels), layer.reason)
            tables.append(frozen)

        # all of it as text of a fixed width, whatever the terminal
        console = Console(file=StringIO(), width=110, color_system=None, legacy_windows=False)
        if self.failure is not None:
            console.print(f"gdp: not cut when training was over. {self.failure}", markup=False, highlight=False)
        for table in tables:
            for column in table.columns[1:3]:
                column.justify = "right"
            console.print(table)
        if self.blocks:
            console.print(f"blocks gone as a whole: {', '.join(self.blocks)}")
        console.print(f"largest difference gated to cut: {self.max_abs:.1e} absolute, {self.max_rel:.1e} relative")
        for note in self.notes:
            console.print(f"note: {note}", markup=False, highlight=False)
        assert isinstance(console.file, StringIO)
        return console.file.getvalue()

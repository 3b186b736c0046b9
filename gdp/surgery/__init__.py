"""Cut networks: in a dry run, during training and for good; every cut is verified and can be undone."""

from gdp.surgery.check import check, freeze_uncuttable_groups, freeze_untrained_readers, trace, untrained_reason
from gdp.surgery.cut import check_plan_fits, cut
from gdp.surgery.cut_like import cut_like
from gdp.surgery.entries import Undo, keep_entries
from gdp.surgery.fold import fold, fold_for_good
from gdp.surgery.keep_folded import keep_folded
from gdp.surgery.make_plain import make_plain
from gdp.surgery.remove import remove, remove_undoably
from gdp.surgery.remove_zeros import remove_zeros
from gdp.surgery.shrink import check_optimizers_cuttable, cut_channels, cuttable_optimizers, plan_for, shrink
from gdp.surgery.step_trial import StepTrial, try_step

__all__ = [
    "StepTrial",
    "Undo",
    "check",
    "check_optimizers_cuttable",
    "check_plan_fits",
    "cut",
    "cut_channels",
    "cut_like",
    "cuttable_optimizers",
    "fold",
    "fold_for_good",
    "freeze_uncuttable_groups",
    "freeze_untrained_readers",
    "keep_entries",
    "keep_folded",
    "make_plain",
    "plan_for",
    "remove",
    "remove_undoably",
    "remove_zeros",
    "shrink",
    "trace",
    "try_step",
    "untrained_reason",
]

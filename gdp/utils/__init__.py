"""Tools that know nothing of pruning: names, inputs, module state, differences, FLOPs by fvcore, files, processes."""

from gdp.utils.difference import Difference, finite, in_double
from gdp.utils.distributed import as_on_rank_zero, in_all
from gdp.utils.files import AnyPath, check_intact, read, write
from gdp.utils.fvcore_flops import count_flops, count_parameters, counted_run
from gdp.utils.inputs import Inputs, as_inputs, copied, inputs_for, randomized, train_inputs
from gdp.utils.module_state import mode_of, run, uncompiled
from gdp.utils.names import SUFFIX, module_of, plain_name, plain_state, refuse_gated, state_for, tensors_of, unwrapped
from gdp.utils.tracebacks import first_line, is_users, source_line

__all__ = [
    "SUFFIX",
    "AnyPath",
    "Difference",
    "Inputs",
    "as_inputs",
    "as_on_rank_zero",
    "check_intact",
    "copied",
    "count_flops",
    "count_parameters",
    "counted_run",
    "finite",
    "first_line",
    "in_all",
    "in_double",
    "inputs_for",
    "is_users",
    "mode_of",
    "module_of",
    "plain_name",
    "plain_state",
    "randomized",
    "read",
    "refuse_gated",
    "run",
    "source_line",
    "state_for",
    "tensors_of",
    "train_inputs",
    "uncompiled",
    "unwrapped",
    "write",
]

"""Collect tools that know nothing of pruning: names, inputs, module state, FLOPs by fvcore, files, processes."""

from gdp.utils.added_gradients import add_gradient
from gdp.utils.difference import Difference, finite_weights, in_float64
from gdp.utils.distributed import all_ranks, broadcast_from_rank_zero, mean_of_all_ranks, of_all_ranks
from gdp.utils.files import AnyPath, check_intact, read_checked, write_atomically
from gdp.utils.fvcore_flops import count_and_run, count_flops, count_parameters
from gdp.utils.inputs import (
    Inputs,
    arguments,
    as_inputs,
    clone_inputs,
    double_batch,
    inputs_by_name,
    map_tensors,
    match_weights,
    randomize_inputs,
)
from gdp.utils.module_state import in_mode, run_and_keep, run_forward, unwrapped
from gdp.utils.module_types import CONV, NORM
from gdp.utils.names import (
    GATE_SUFFIX,
    check_one_device,
    check_ungated,
    get_module,
    is_compiled,
    named_tensors,
    parameter_shapes,
    plain_name,
    plain_state_dict,
    state_dict_for,
    under_plain_names,
    unwrap,
)
from gdp.utils.outputs import output_tensors, tensors_in
from gdp.utils.snapshot import Snapshot, check_initialized
from gdp.utils.tracebacks import described, first_line, is_user_file, source_line

__all__ = [
    "CONV",
    "GATE_SUFFIX",
    "NORM",
    "AnyPath",
    "Difference",
    "Inputs",
    "Snapshot",
    "add_gradient",
    "all_ranks",
    "arguments",
    "as_inputs",
    "broadcast_from_rank_zero",
    "check_initialized",
    "check_intact",
    "check_one_device",
    "check_ungated",
    "clone_inputs",
    "count_and_run",
    "count_flops",
    "count_parameters",
    "described",
    "double_batch",
    "finite_weights",
    "first_line",
    "get_module",
    "in_float64",
    "in_mode",
    "inputs_by_name",
    "is_compiled",
    "is_user_file",
    "map_tensors",
    "match_weights",
    "mean_of_all_ranks",
    "named_tensors",
    "of_all_ranks",
    "output_tensors",
    "parameter_shapes",
    "plain_name",
    "plain_state_dict",
    "randomize_inputs",
    "read_checked",
    "run_and_keep",
    "run_forward",
    "source_line",
    "state_dict_for",
    "tensors_in",
    "under_plain_names",
    "unwrap",
    "unwrapped",
    "write_atomically",
]

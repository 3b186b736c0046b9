"""Tools that know nothing of pruning: names, inputs, module state, differences, FLOPs by fvcore, files, processes."""

from gdp.utils.difference import Difference, finite_weights, in_float64
from gdp.utils.distributed import all_ranks, broadcast_from_rank_zero
from gdp.utils.files import AnyPath, check_intact, read_checked, write_atomically
from gdp.utils.fvcore_flops import count_and_run, count_flops, count_parameters
from gdp.utils.inputs import Inputs, as_input_tuple, clone_inputs, double_batch, inputs_like_weights, randomize_inputs
from gdp.utils.module_state import compile_disabled, in_mode, run_forward
from gdp.utils.names import (
    GATE_SUFFIX,
    check_ungated,
    get_module,
    named_tensors,
    plain_name,
    plain_state_dict,
    state_dict_for,
    unwrap_compiled,
)
from gdp.utils.tracebacks import first_line, is_user_file, source_line

__all__ = [
    "GATE_SUFFIX",
    "AnyPath",
    "Difference",
    "Inputs",
    "all_ranks",
    "as_input_tuple",
    "broadcast_from_rank_zero",
    "check_intact",
    "check_ungated",
    "clone_inputs",
    "compile_disabled",
    "count_and_run",
    "count_flops",
    "count_parameters",
    "double_batch",
    "finite_weights",
    "first_line",
    "get_module",
    "in_float64",
    "in_mode",
    "inputs_like_weights",
    "is_user_file",
    "named_tensors",
    "plain_name",
    "plain_state_dict",
    "randomize_inputs",
    "read_checked",
    "run_forward",
    "source_line",
    "state_dict_for",
    "unwrap_compiled",
    "write_atomically",
]

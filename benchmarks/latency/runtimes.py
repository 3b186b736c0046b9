"""The ways to run a network: eager, channels last, torch.compile, onnxruntime; on one CPU thread."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from benchmarks.latency.networks import Network

TOLERANCE = 1e-3  # relative; what runtimes may differ by

Call = Callable[[], Tensor]


def eager(net: nn.Module, x: Tensor) -> Call:
    """Return a call that runs the network as it is."""
    return lambda: net(x)


def channels_last(net: nn.Module, x: Tensor) -> Call:
    """Return a call that runs a copy of the network, weights and images in this memory format."""
    net, x = copy.deepcopy(net).to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    return lambda: net(x)


def compiled(net: nn.Module, x: Tensor) -> Call:
    """Return a call that runs what torch.compile makes of the network."""
    fast = torch.compile(net, dynamic=False)
    return lambda: fast(x)


def onnx(net: nn.Module, x: Tensor) -> Call:
    """Return a call that runs the network, exported to ONNX, in onnxruntime with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this exporter is the older one; it is several times as fast
        file = Path(folder, "net.onnx")
        torch.onnx.export(net, (x,), file, dynamo=False, verbose=False)
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


RUNTIMES: dict[str, Callable[[nn.Module, Tensor], Call]] = {
    "eager": eager,
    "channels_last": channels_last,
    "compile": compiled,
    "onnxruntime": onnx,
}


def prepared(runtime: str, networks: list[Network], x: Tensor) -> list[Call]:
    """Return a call for every network in a runtime, each having run once and computed what it does in eager mode.

    Args:
        runtime: one of RUNTIMES.
        networks: in eval mode.
        x: their input.

    Raises:
        AssertionError: the outputs differ.
        Exception: whatever the runtime raises on a network.
    """
    calls = []
    for network in networks:
        call = RUNTIMES[runtime](network.net, x)
        expected, found = network.net(x), call()
        error = float((found - expected).abs().max() / expected.abs().max())
        assert error <= TOLERANCE, f"{runtime} differs from eager by {error:.1e} on {network.name} at {network.target}"
        calls.append(call)
    return calls

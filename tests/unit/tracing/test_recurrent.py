"""Recurrent layers read channels as linear layers do: columns of their first weights, of both directions, go."""

import copy
import pickle

import pytest
import torch
from helpers.networks import ConvLSTM, conv, randomize
from helpers.small_net import Net, X, prune
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import gdp
from gdp.gates import gate_gradients
from gdp.surgery import fold
from gdp.utils import count_flops, run_forward

LAYERS = {
    "LSTM": lambda: nn.LSTM(8, 5, batch_first=True),
    "LSTM with a projection": lambda: nn.LSTM(8, 5, 2, batch_first=True, bidirectional=True, proj_size=3),
    "LSTM of three layers with dropout": lambda: nn.LSTM(8, 5, 3, batch_first=True, dropout=0.5),
    "GRU": lambda: nn.GRU(8, 5, batch_first=True, bidirectional=True),
    "RNN": lambda: nn.RNN(8, 5, batch_first=True),
    "RNN with ReLU": lambda: nn.RNN(8, 5, 2, bias=False, nonlinearity="relu", batch_first=True),
}


class WithSkip(nn.LSTM):
    """A subclass that uses its input twice."""

    def forward(self, input, hx=None):  # noqa: A002
        return (torch.cat([super().forward(input=input, hx=hx)[0], input], 2),)


def columns(self, x) -> torch.Tensor:
    return self.a(x).mean(2).transpose(1, 2)


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("form", ["batch", "unbatched", "named"])
def test_columns_of_the_first_weights_go(make, form):
    def body(self, x):
        y = columns(self, x)
        out = self.rnn(input=y) if form == "named" else self.rnn(y[0] if form == "unbatched" else y)
        return self.last(out[0])

    rnn = make()
    width = (rnn.proj_size or 5) * (1 + rnn.bidirectional)
    net = randomize(Net(body, rnn=rnn, last=nn.Linear(width, 4)))
    del net.b, net.head
    graph, report = prune(net)
    assert [(g.name, g.readers) for g in graph.groups] == [("a.0", ("rnn",))], graph.reasons()
    assert rnn.input_size == rnn.weight_ih_l0.shape[1] == 4 and f"rnn ({width} channels): hidden" in graph.reasons()
    assert all(a is b for a, b in zip(rnn._flat_weights, rnn.parameters(), strict=True))
    assert report.max_rel < 1e-5 and report.flops_after == report.flops_predicted == count_flops(net, X)
    assert type(rnn) is type(make()) and not any("gdp" in name for name in vars(rnn))


def gated(net: nn.Module, x=X) -> gdp.gates.Gates:
    gates = gdp.insert_gates(net, gdp.trace(net, x))
    gates.set(0.3 + 0.5 * torch.rand(len(gates.gate_param)), 0.3)
    return gates


def test_a_subclass_gates_what_the_layer_reads_and_nothing_else():
    net = Net(lambda self, x: self.tail(self.rnn(columns(self, x))[0]), rnn=WithSkip(8, 5, batch_first=True))
    net.tail = nn.Linear(13, 4)
    gates = gated(net)
    gates.close("a.0", [0, 3])
    expected = run_forward(net, (X,))
    report = gdp.remove(net, gates.graph, gates)
    assert [g.readers for g in gates.graph.groups] == [("rnn", "tail")] and report.groups[0][1:] == (6, 8)
    torch.testing.assert_close(run_forward(net, (X,)), expected, rtol=1e-4, atol=1e-5)
    assert type(net.rnn) is WithSkip


def test_gated_layers_are_copied_pickled_and_converted():
    torch.manual_seed(0)
    net = randomize(ConvLSTM()).eval()
    gates = gated(net)
    expected = net(X)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(X), expected)
        loss = other(X).sum()
        loss.backward()
        assert other.rnn.weight_ih_l0_reverse.grad is not None
    precise = copy.deepcopy(net).double()
    torch.testing.assert_close(precise(X.double()).float(), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(net.rnn.weight_ih_l0, nn.Parameter)
    gates.withdraw()
    assert type(net.rnn) is nn.LSTM and not torch.equal(net(X), expected)


def test_the_gradient_of_the_gates_is_that_of_both_directions():
    torch.manual_seed(0)
    net = randomize(ConvLSTM()).double()
    x = X.double()
    gates = gated(net, x)
    found = gate_gradients(gates, net.eval()(x).square().sum())
    step, slopes = 1e-6, []
    before = gates.gate_param.clone().double()
    for channel in range(len(before)):
        losses = []
        for sign in (1, -1):
            moved = gates.values.double()
            moved[channel] *= 1 + sign * step
            for reader in gates.readers:
                reader.gate.data = moved[reader.index].view(reader.gate.shape)
            losses.append(net(x).square().sum().item())
        slopes.append((losses[0] - losses[1]) / (2 * step))
    torch.testing.assert_close(found.double(), torch.tensor(slopes).double(), rtol=1e-3, atol=1e-4)


def test_a_network_that_packs_sequences_is_refused_with_its_line():
    def body(self, x):
        packed = pack_padded_sequence(columns(self, x), torch.tensor([12, 12]), batch_first=True)
        return self.last(self.rnn(packed)[1][0])

    net = Net(body, rnn=nn.LSTM(8, 5, batch_first=True), last=nn.Linear(5, 4))
    with pytest.raises(gdp.GDPError, match=r"torch.export can't follow.*test_recurrent\.py:\d+"):
        gdp.check(net, X)


def test_a_channel_goes_with_all_columns_that_its_rows_of_pixels_are_read_by():
    def body(self, x):
        return self.last(self.rnn(self.a(x).permute(3, 0, 1, 2).flatten(2))[0])

    net = randomize(Net(body, rnn=nn.LSTM(96, 5, bidirectional=True), last=nn.Linear(10, 4)))
    graph, report = prune(net)
    assert [(g.name, g.size) for g in graph.groups] == [("a.0", 8)] and net.rnn.input_size == 48
    assert report.max_rel < 1e-5 and report.flops_after == report.flops_predicted == count_flops(net, X)


def test_what_an_initial_state_is_made_of_stays():
    def body(self, x):
        return self.last(self.rnn(columns(self, x), self.b(x).mean((2, 3))[None])[0])

    graph, report = prune(randomize(Net(body, rnn=nn.GRU(8, 8, batch_first=True), last=nn.Linear(8, 4))))
    assert [g.name for g in graph.groups] == ["a.0"] and report.max_rel < 1e-5
    assert "b.0 (8 channels): hidden units are fed back into all gates of gru in rnn" in graph.reasons()


def test_a_gated_layer_takes_packed_sequences_as_well():
    gates = gated(net := randomize(ConvLSTM()).eval())
    x, lengths = torch.randn(2, 12, 8), torch.tensor([12, 7])
    packed = pack_padded_sequence(x, lengths, batch_first=True)
    found = net.rnn(packed)[0].data
    fold(gates)
    torch.testing.assert_close(found, net.rnn(packed)[0].data)


def test_an_lstm_between_two_streams_keeps_what_it_makes_and_the_rest_goes():
    layers = {"rnn": nn.GRU(8, 8, batch_first=True), "b2": conv(8, 8), "last": nn.Conv2d(8, 4, 1)}
    net = Net(lambda self, x: self.last(self.b2(self.rnn(columns(self, x))[0].transpose(1, 2)[:, :, None])), **layers)
    graph, report = prune(randomize(net))
    assert [g.name for g in graph.groups] == ["a.0", "b2.0"] and report.max_rel < 1e-5

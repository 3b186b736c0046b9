"""Networks in which recurrent layers read channels."""

from __future__ import annotations

import torch
from helpers.networks.building import conv
from torch import Tensor, nn


class ConvLSTM(nn.Module):
    """A CRNN: convs read a picture, an LSTM of two layers reads its columns. fvcore does not count it."""

    flops = 2 * (144 * (3 * 8 * 9 + 2 * 8) + 12 * 10 * 4)
    after = {"a.0": [0, 1, 5]}, 2 * (144 * (3 * 5 * 9 + 2 * 5) + 12 * 10 * 4)
    stays = "rnn (10 channels): hidden units are fed back into all gates of lstm in rnn, and stay"

    def __init__(self) -> None:
        super().__init__()
        self.a, self.rnn = conv(3, 8), nn.LSTM(8, 5, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.a(x).mean(2).transpose(1, 2))[0])


class GRUOverRows(nn.Module):
    """A residual stream, of whose rows a GRU reads one after the other; time comes first, the last state is used."""

    flops = 2 * (144 * (3 * 8 * 9 + 2 * 8 + 8 * 8 * 9 + 2 * 8) + 6 * 4)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.rnn, self.head = conv(3, 8), conv(8, 8), nn.GRU(8, 6, bias=False), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = x + self.b(x)
        return self.head(self.rnn(x.amax(3).permute(2, 0, 1))[1][0])


class Cells(nn.Module):
    """LSTMCell, GRUCell and RNNCell, which read four columns one after the other, and which fvcore counts."""

    flops = 2 * (144 * (3 * 8 * 9 + 2 * 8) + 4 * (8 + 5) * 5 * (4 + 3 + 1) + 15 * 4)
    after = {"a.0": [0, 7]}, 2 * (144 * (3 * 6 * 9 + 2 * 6) + 4 * (6 + 5) * 5 * (4 + 3 + 1) + 15 * 4)
    stays = "lstm (5 channels): hidden units are fed back into all gates of lstm_cell in lstm, and stay"

    def __init__(self) -> None:
        super().__init__()
        self.a, self.lstm, self.gru, self.rnn = conv(3, 8), nn.LSTMCell(8, 5), nn.GRUCell(8, 5), nn.RNNCell(8, 5)
        self.head = nn.Linear(15, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = gru = rnn = None
        for column in self.a(x).mean(2)[:, :, :4].unbind(2):
            state, gru, rnn = self.lstm(column, state), self.gru(column, gru), self.rnn(column, rnn)
        return self.head(torch.cat([state[0], gru, rnn], 1))

"""Networks that choose positions by their scores, as two-stage detectors do; ties may be broken either way."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import nms


class Queries(nn.Module):
    """Tokens of a backbone, normalized and scored; `choose` says which positions go on, with their anchors.

    With one channel left, all tokens are one of two vectors up to rounding, and their scores tie.
    """

    kept = 40
    selects: tuple[str, ...] = ()

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        convs = nn.Conv2d(3, width, 3, 2, 1), nn.Conv2d(width, width, 3, padding=1)
        self.body = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU())
        self.embed, self.classes = nn.Conv2d(width, 16, 1, bias=False), nn.Linear(16, 5, bias=False)
        self.mix = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        tokens = F.normalize(self.embed(self.features(x)).flatten(2).transpose(1, 2), dim=-1)
        top = self.choose(self.classes(tokens).amax(-1))
        anchors = torch.linspace(0, 1, tokens.shape[1])[top].unsqueeze(-1)
        return self.decode(anchors + tokens.gather(1, top.unsqueeze(-1).expand(-1, -1, 16)))

    def features(self, x: Tensor) -> Tensor:
        return self.body(x)

    def choose(self, scores: Tensor) -> Tensor:
        raise NotImplementedError

    def decode(self, queries: Tensor) -> Tensor:
        """What a decoder does: every query looks at all others."""
        attention = torch.softmax(queries @ queries.transpose(1, 2), -1)
        return self.mix(attention @ queries) + queries


class TopK(Queries):
    """The best of them, in order."""

    selects = ("topk",)

    def choose(self, scores):
        return scores.topk(self.kept, dim=1).indices


class Argsort(Queries):
    """All of them, in order."""

    selects = ("argsort",)

    def choose(self, scores):
        return scores.argsort(dim=1, descending=True)


class SortDescending(Queries):
    """The first of a sorted list."""

    selects = ("sort",)

    def choose(self, scores):
        return torch.sort(scores, dim=1, descending=True)[1][:, : self.kept]


class BestOfEachRow(Queries):
    """The best position of every row of the picture."""

    selects = ("argmax",)

    def choose(self, scores):
        rows = scores.unflatten(1, (-1, 17))
        return rows.argmax(2) + 17 * torch.arange(rows.shape[1])


class ExactTies(TopK):
    """Scores are exactly zero nearly everywhere."""

    def choose(self, scores):
        return super().choose(F.relu(scores - 0.9 * scores.amax(1, keepdim=True)))


class Codebook(Queries):
    """Every token is replaced by the nearest of some codes, by a one-hot matrix."""

    selects = ("argmax",)

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(12, 16))

    def forward(self, x):
        tokens = self.embed(self.features(x)).flatten(2).transpose(1, 2)
        tokens = tokens - tokens.mean(1, keepdim=True)
        chosen = F.one_hot((tokens @ self.codes.T).argmax(-1), 12).to(x.dtype)
        return self.mix(chosen @ self.codes)


class Suppressed(Queries):
    """Boxes without those that a better one covers: how many are left depends on the data."""

    selects = ("nms",)

    def forward(self, x):
        tokens = F.normalize(self.embed(self.features(x)).flatten(2).transpose(1, 2), dim=-1)[0]
        boxes = torch.cat([tokens[:, :2], tokens[:, :2] + tokens[:, 2:4].abs() + 0.1], 1)
        left = nms(boxes, self.classes(tokens).amax(-1), 0.5)
        return boxes[left], tokens[left]


SELECTING = [TopK, Argsort, SortDescending, BestOfEachRow, ExactTies, Codebook, Suppressed]

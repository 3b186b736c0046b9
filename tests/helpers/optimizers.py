"""Optimizers as people write them: around other optimizers, and with tensors in places of their own."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch.optim import SGD, Optimizer


class SAM(Optimizer):
    """Sharpness-aware minimization, arXiv 2010.01412: two gradients per step, around a base optimizer."""

    def __init__(self, params, base=SGD, rho=0.05, **kw):
        super().__init__(params, {"rho": rho} | kw)
        self.base_optimizer = base(self.param_groups, **kw)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure()
        trained = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in trained]).norm() + 1e-12
        for p in trained:
            self.state[p]["ascent"] = p.grad * (self.param_groups[0]["rho"] / norm)
            p.add_(self.state[p]["ascent"])
        with torch.enable_grad():
            closure()
        for p in trained:
            p.sub_(self.state[p]["ascent"])
        self.base_optimizer.step()
        return loss


class Lookahead(Optimizer):
    """Slow weights (arXiv 1907.08610) in a state of its own, by parameter; the inner optimizer has its own as well."""

    def __init__(self, inner, every=3):
        self.optimizer, self.every, self.steps = inner, every, 0
        self.param_groups, self.defaults, self.state = inner.param_groups, inner.defaults, defaultdict(dict)
        self.fast_state = inner.state

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure=None):
        loss = self.optimizer.step(closure)
        self.steps += 1
        if self.steps % self.every == 0:
            for p in (p for group in self.param_groups for p in group["params"]):
                slow = self.state[p].setdefault("slow", p.detach().clone())
                slow.lerp_(p, 0.5)
                p.copy_(slow)
        return loss


class SharedState(Optimizer):
    """A wrapper whose state is that of the optimizers within, which lie in a list; tensors come in pairs."""

    def __init__(self, params, **kw):
        super().__init__(params, kw)
        self.optimizers = [SGD(group["params"], **kw) for group in self.param_groups]
        self.state = self.optimizers[0].state

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        for optimizer in self.optimizers:
            loss = optimizer.step(closure)
        for p in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            first, second = self.state[p].setdefault("pair", (torch.zeros_like(p), torch.zeros_like(p)))
            second.copy_(first)
            first.copy_(p.grad)
            p.sub_(second, alpha=1e-3)
        return loss


class ScheduleFree(Optimizer):
    """Schedule-free SGD (arXiv 2405.15682): a second sequence of weights, in the state."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, {"lr": lr, "k": 0})

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        for group in self.param_groups:
            group["k"] += 1
            for p in (p for p in group["params"] if p.grad is not None):
                z = self.state[p].setdefault("z", p.clone())
                z.sub_(p.grad, alpha=group["lr"])
                p.lerp_(z, 1 / (group["k"] + 1))
        return loss


class KeepsSlow(SGD):
    """A base of those that keep slow weights somewhere, and follow them every third step."""

    def __init__(self, params, **kw):
        super().__init__(params, **kw)
        self.steps = 0
        self.keep([p.detach().clone() for group in self.param_groups for p in group["params"]])

    @torch.no_grad()
    def step(self, closure=None):
        loss = super().step(closure)
        self.steps += 1
        if self.steps % 3 == 0:
            parameters = [p for group in self.param_groups for p in group["params"]]
            for p, slow in zip(parameters, self.kept(), strict=True):
                slow.lerp_(p, 0.5)
                p.copy_(slow)
        return loss


class ListOfLists(KeepsSlow):
    def keep(self, tensors):
        self.slow = [tensors[:3], tensors[3:]]

    def kept(self):
        return self.slow[0] + self.slow[1]


class ByName(KeepsSlow):
    def keep(self, tensors):
        self.ema = {"weights": {f"p{i}": t for i, t in enumerate(tensors)}}

    def kept(self):
        return list(self.ema["weights"].values())


class InGroups(KeepsSlow):
    def keep(self, tensors):
        self.param_groups[0]["anchors"] = tensors

    def kept(self):
        return self.param_groups[0]["anchors"]


class InObject(KeepsSlow):
    class Average:
        def __init__(self, tensors):
            self.shadow = tensors

    def keep(self, tensors):
        self.average = self.Average(tensors)

    def kept(self):
        return self.average.shadow


class InStateByNumber(KeepsSlow):
    def keep(self, tensors):
        self.state.update({i: {"slow": t} for i, t in enumerate(tensors)})

    def kept(self):
        return [self.state[i]["slow"] for i in range(len(self.param_groups[0]["params"]))]


class Flat(KeepsSlow):
    def keep(self, tensors):
        self.flat = torch.cat([t.flatten() for t in tensors])

    def kept(self):
        parameters = [p for group in self.param_groups for p in group["params"]]
        pieces = self.flat.split([p.numel() for p in parameters])
        return [piece.view(p.shape) for piece, p in zip(pieces, parameters, strict=True)]


class MasterWeights(Optimizer):
    """An inner optimizer that trains copies of the weights in float64."""

    def __init__(self, params, **kw):
        super().__init__(params, kw)
        self.masters = [p.detach().double().requires_grad_() for group in self.param_groups for p in group["params"]]
        self.inner = SGD(self.masters, **kw)

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        parameters = [p for group in self.param_groups for p in group["params"]]
        for p, master in zip(parameters, self.masters, strict=True):
            master.grad = None if p.grad is None else p.grad.double()
        self.inner.step()
        for p, master in zip(parameters, self.masters, strict=True):
            p.copy_(master)
        return loss


REFUSED = [ListOfLists, ByName, InGroups, InObject, InStateByNumber, Flat, MasterWeights]

"""TRX on whole tuples: each is gathered, projected and normed; attention a class at a time."""

import math
from itertools import combinations

import torch
from torch import Tensor, nn


class Loop(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.cardinalities = nn.ModuleList(Cardinality(attention, head.features) for attention in head.tuples)

    def forward(self, support: Tensor, labels: Tensor, query: Tensor, way: int) -> Tensor:
        logits = [cardinality(support, labels, query, way) for cardinality in self.cardinalities]
        return torch.stack(logits).mean(0)


class Cardinality(nn.Module):
    def __init__(self, attention: nn.Module, features: int) -> None:
        super().__init__()
        width = attention.norm.normalized_shape[0]
        self.size, self.dropout, self.norm = attention.size, nn.Dropout(attention.dropout.p), nn.LayerNorm(width)
        self.key, self.value = (nn.Linear(self.size * features, width) for _ in range(2))
        for linear, own, bias in zip(
            (self.key, self.value), (attention.key, attention.value), attention.bias.detach(), strict=True
        ):
            weight = own.weight.detach().unflatten(0, (self.size, width)).transpose(0, 1).flatten(1)  # (O, w D)
            linear.load_state_dict({"weight": weight, "bias": bias})
        self.norm.load_state_dict(attention.norm.state_dict())

    def forward(self, support: Tensor, labels: Tensor, query: Tensor, way: int) -> Tensor:
        support, query = self.tuples(support), self.tuples(query)  # (S, n, w D), (Q, n, w D)
        keys, query_keys = self.norm(self.key(support)), self.norm(self.key(query))
        values, query_values = self.value(support), self.value(query)
        logits = []
        for c in range(way):
            members = (labels == c).nonzero().flatten()
            class_keys, class_values = keys[members].flatten(0, 1), values[members].flatten(0, 1)  # (K n, O)
            scores = query_keys @ class_keys.T / math.sqrt(class_keys.shape[1])  # (Q, n, K n)
            found = scores.softmax(-1) @ class_values
            logits.append(-(query_values - found).square().sum((1, 2)) / query.shape[1])
        return torch.stack(logits, dim=1)

    def tuples(self, clips: Tensor) -> Tensor:
        """(B, T, D) -> (B, n, w D)."""
        frames, features = clips.shape[1:]
        position = torch.arange(frames, device=clips.device)[:, None]
        angles = position * torch.exp(torch.arange(0, features, 2, device=clips.device) * -math.log(1e4) / features)
        code = 0.1 * torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
        clips = self.dropout(clips + code)
        chosen = [list(places) for places in combinations(range(frames), self.size)]
        return torch.stack([clips[:, places].flatten(1) for places in chosen], dim=1)

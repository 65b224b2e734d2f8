"""Who changes which weights: Muon the matrices inside the layers, AdamW everything else.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) makes every direction of a matrix's
step equally large, so that rare directions are learnt as fast as common ones. When it took over
from AdamW in the middle of a run, the names of shapes were learnt at more than twice the pace.
PyTorch has it since version 2.9.
"""

from typing import Any

import torch
from torch import nn

WEIGHT_DECAY = 0.05
BETAS = (0.9, 0.98)  # of AdamW: how long gradients, and their squares, are remembered
MUON_RATE = 2.0  # times AdamW's learning rate


class Optimizers:
    """AdamW (Loshchilov & Hutter 2019, 1711.05101) and Muon, used as one."""

    def __init__(self, model: nn.Module, head: nn.Module) -> None:
        inner = [
            parameter
            for name, parameter in model.named_parameters()
            if parameter.dim() == 2 and "embed" not in name
        ]
        taken = {id(parameter) for parameter in inner}
        others = [p for p in [*model.parameters(), *head.parameters()] if id(p) not in taken]
        groups = [
            {"params": [p for p in others if p.dim() >= 2], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in others if p.dim() < 2], "weight_decay": 0.0},
        ]
        self.adam = torch.optim.AdamW(groups, lr=0.0, betas=BETAS, fused=True)
        # Its steps are scaled to the size of AdamW's, so that both can follow one schedule.
        self.muon = torch.optim.Muon(
            inner, lr=0.0, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"
        )

    def step(self, rate: float) -> None:
        """Take one step at AdamW's learning rate `rate`, and forget the gradients."""
        for optimizer, times in ((self.adam, 1.0), (self.muon, MUON_RATE)):
            for group in optimizer.param_groups:
                group["lr"] = rate * times
            optimizer.step()
            optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """What it takes to go on."""
        return {"adam": self.adam.state_dict(), "muon": self.muon.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.adam.load_state_dict(state["adam"])
        self.muon.load_state_dict(state["muon"])

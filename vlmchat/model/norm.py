"""Gemma's norm in fewer operations; `vlmchat.packing` places it once weights are loaded.

With one token the norms are dozens of small operations whose numbers have long left the caches.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from vlmchat.model.gemma import RMSNorm


class FastRMSNorm(RMSNorm):
    """An `RMSNorm` that has added one to its weight once and for all.

    In bfloat16 on a CPU it is the layer norm of x beside -x: their mean is zero and their variance
    the mean square of x. That is one kernel, which as Gemma asks multiplies in float32 and rounds
    once.
    """

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__(len(norm.weight), norm.eps)
        self.weight = norm.weight
        self.scale = 1.0 + norm.weight.detach().float()
        self.twice = torch.cat((self.scale, self.scale))

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        if x.dtype == torch.bfloat16 and x.device.type == "cpu":
            both = torch.cat((x, -x), dim=-1)
            normed = F.layer_norm(both, (2 * width,), self.twice, eps=self.eps)
            return normed[..., :width].contiguous()
        return F.rms_norm(x.float(), (width,), self.scale, self.eps).to(x.dtype)

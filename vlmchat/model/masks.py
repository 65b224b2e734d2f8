r"""Who may read whom: the attention masks of a prefix language model, drawn and built.

PaliGemma's sequence is `image image <bos> what is it \n` and then the answer. Rows read columns;
`1` may read. Two image tokens (i), three prompt tokens (p), two answer tokens (a):

    PaliGemma                image alone               causal (what neither does)
        i i p p p a a            i i p p p a a             i i p p p a a
    i   1 1 1 1 1 0 0        i   1 1 0 0 0 0 0         i   1 0 0 0 0 0 0
    i   1 1 1 1 1 0 0        i   1 1 0 0 0 0 0         i   1 1 0 0 0 0 0
    p   1 1 1 1 1 0 0        p   1 1 1 1 1 0 0         p   1 1 1 0 0 0 0
    p   1 1 1 1 1 0 0        p   1 1 1 1 1 0 0         p   1 1 1 1 0 0 0
    p   1 1 1 1 1 0 0        p   1 1 1 1 1 0 0         p   1 1 1 1 1 0 0
    a   1 1 1 1 1 1 0        a   1 1 1 1 1 1 0         a   1 1 1 1 1 1 0
    a   1 1 1 1 1 1 1        a   1 1 1 1 1 1 1         a   1 1 1 1 1 1 1

Left, the image's keys depend on the prompt, because its rows read it: a new question changes them.
In the middle they do not, and may be kept for the next question. The `kv` mode of the engine draws
a third picture on a PaliGemma: the kept block k (image, <bos>, the task's fixed words) reads
itself, and the rest of the prompt r reads everything before the answer:

        k k k r r a a
    k   1 1 1 0 0 0 0
    k   1 1 1 0 0 0 0
    k   1 1 1 0 0 0 0
    r   1 1 1 1 1 0 0
    r   1 1 1 1 1 0 0
    a   1 1 1 1 1 1 0
    a   1 1 1 1 1 1 1

All of them are one construction, `block_mask`: blocks that read themselves and every block before
them, followed by causal tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def block_mask(
    blocks: Sequence[int], causal: int = 0, device: torch.device | str = "cpu"
) -> Tensor:
    """Mask (T, T), True = may read, for blocks of these lengths and `causal` tokens behind them.

    `block_mask([5], 2)` is the left picture above, `block_mask([2, 3], 2)` the middle one,
    `block_mask([3, 2], 2)` the last, and `block_mask([], 7)` the causal one.
    """
    lengths = torch.tensor([*blocks, *[1] * causal], device=device)
    block_of = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)
    return block_of.unsqueeze(1) >= block_of.unsqueeze(0)

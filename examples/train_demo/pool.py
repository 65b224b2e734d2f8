"""Where the batches come from: fresh ones as they are drawn, earlier ones while none is ready.

A GPU learns faster than processors draw. Rather than let it wait, an image is shown again after a
while, with other questions about it. On a CPU a new batch is nearly always ready.
"""

from __future__ import annotations

import queue
import random
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from torch.utils.data import DataLoader

from examples.train_demo.batches import Batch, SceneBatches, Texts

if TYPE_CHECKING:
    from examples.train_demo.train import Plan

MOST_KEPT = 100_000  # images: 11 GB of the demo model's size
READY = 4  # batches drawn ahead


class Pool:
    """Batches on the plan's device; images beyond `MOST_KEPT` are let go, the oldest first."""

    def __init__(self, folder: Path, first: int, plan: Plan) -> None:
        scenes = SceneBatches(folder, plan.batch, first, plan.showings, plan.most_things)
        ahead = 2 if plan.workers else None
        self._loader = DataLoader(
            scenes, batch_size=None, num_workers=plan.workers, prefetch_factor=ahead
        )
        self._device = plan.device
        self._most = max(1, MOST_KEPT // plan.batch)
        self._showings = plan.showings
        self._shown: list[tuple[Batch, int]] = []
        self._rng = random.Random(first)
        self._ready: queue.Queue[Batch | Exception] = queue.Queue(READY)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._draw, daemon=True)
        self._thread.start()

    def next(self) -> tuple[Batch, Texts, bool]:
        """A batch, the set of questions to ask about it, and whether it was never seen before."""
        try:
            batch = self._ready.get(block=not self._shown)
        except queue.Empty:
            return self._again()
        if isinstance(batch, Exception):
            raise batch
        batch = batch.to(self._device)
        self._keep(batch, 1)
        return batch, batch.texts[0].to(self._device), True

    def _again(self) -> tuple[Batch, Texts, bool]:
        """An earlier batch, with the next of its sets of questions."""
        batch, times = self._shown.pop(self._rng.randrange(len(self._shown)))
        self._keep(batch, times + 1)
        return batch, batch.texts[times].to(self._device), False

    def _keep(self, batch: Batch, times: int) -> None:
        if times < self._showings:
            self._shown.append((batch, times))
        if len(self._shown) > self._most:
            self._shown.pop(0)

    def _draw(self) -> None:
        """What the thread does: wait for batches, so that nobody else has to."""
        try:
            for batch in self._loader:
                while not self._closed.is_set():
                    try:
                        self._ready.put(batch, timeout=0.2)
                        break
                    except queue.Full:
                        continue
                if self._closed.is_set():
                    return
        except Exception as error:  # raised where the batch was wanted
            self._ready.put(error)

    def close(self) -> None:
        """Draw no more."""
        self._closed.set()
        self._thread.join()

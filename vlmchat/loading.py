"""From a path or hub id to a session that can be asked: where the parts are put together."""

from pathlib import Path

import torch

from vlmchat import hub, mask_file
from vlmchat.compiler import NotCompiledError
from vlmchat.config import ModelConfig
from vlmchat.engine import Engine, PrefixMode
from vlmchat.errors import UserError
from vlmchat.model.compiled import Kernels, compile_kernels
from vlmchat.packing import Quantize, takes_kernels
from vlmchat.processor import Processor
from vlmchat.sampling import Sampling
from vlmchat.session import Session, Settings
from vlmchat.weight_cache import WeightCache, weight_cache
from vlmchat.weights import Checkpoint, Progress, load_model, open_checkpoint

DEMO_FOLDER = Path(__file__).parent / "demo"
HALVED_ABOVE = 4 * 10**9  # bytes; larger float32 checkpoints run in bfloat16
KEPT_ABOVE = 2 * 10**8  # bytes; smaller checkpoints are quantised anew as fast as they are read


def load(
    model_path: str | Path | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: Quantize = "none",
    prefix_cache: PrefixMode = "kv",
    sampling: Sampling | None = None,
    mask_decoder: str | Path | None = None,
    compile: bool = False,
    progress: Progress | None = None,
) -> Session:
    """Load a checkpoint folder or hub id (None: the demo model) into a new session.

    `device` is auto, cpu, cuda, cuda:N or mps; `dtype` is auto, float32, bfloat16 or float16.
    `quantize` (none, int8 or int4) keeps the weights of the decoder's linear layers in fewer bits.
    `mask_decoder` is the file that turns `segment`'s codes into masks (None: the one beside the
    checkpoint, if there is one). `compile` has faster kernels compiled for a CPU in bfloat16, and
    the decoding step anywhere else, where there is a compiler. `progress`, called with bytes done
    and bytes in all, is told of a download first, then of the loading.
    Raises UserError where something is wrong with the path, the files or the device.
    """
    target = pick_device(device)
    folder = hub.resolve(model_path or DEMO_FOLDER, progress=progress)
    checkpoint = open_checkpoint(folder, ModelConfig.from_folder(folder))
    processor = Processor.from_folder(folder, checkpoint.config)
    arithmetic = pick_dtype(dtype, checkpoint)
    cache = _cache(checkpoint) if quantize != "none" else None
    own = compile and takes_kernels(target, arithmetic, quantize)
    made, problems = _kernels() if own else (None, ())
    model = load_model(
        checkpoint, arithmetic, target, progress, quantize=quantize, cache=cache, kernels=made
    )
    engine = Engine(model, processor)
    notices = checkpoint.notices + problems + engine.accelerate(compile and not own)
    session = Session(
        engine,
        Settings(sampling=sampling or Sampling(), prefix_cache=prefix_cache),
        model_name="demo" if model_path is None else str(model_path),
        notices=notices if cache is None or cache.problem is None else (*notices, cache.problem),
    )
    mask_path = Path(mask_decoder) if mask_decoder else mask_file.beside(folder)
    if mask_path is not None:
        session.mask_decoder = mask_file.load_mask_decoder(mask_path)
    return session


def _kernels() -> tuple[Kernels | None, tuple[str, ...]]:
    """Kernels of our own for this processor, or None and a line why not."""
    try:
        return compile_kernels(), ()
    except NotCompiledError as error:
        return None, (f"--compile: {error}: decoding goes on without it",)


def _cache(checkpoint: Checkpoint) -> WeightCache | None:
    """Where the quantised weights of a large checkpoint are kept."""
    if checkpoint.nbytes < KEPT_ABOVE:
        return None
    return weight_cache(entry.file for entry in checkpoint.entries.values())


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto` is the first of CUDA, Apple's GPU and the CPU."""
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {name}: this PyTorch sees {torch.cuda.device_count()} CUDA devices: "
            "use --device cpu, or install a PyTorch with CUDA"
        )
    if device.type == "mps" and not has_mps:
        raise UserError("--device mps: no Apple GPU here: use --device cpu")
    return device


def pick_dtype(name: str, checkpoint: Checkpoint) -> torch.dtype:
    """The dtype of that name; `auto` is the file's, but bfloat16 for large float32 files."""
    if name != "auto":
        return {
            "float32": torch.float32,
            "bfloat16": torch.bfloat16,
            "float16": torch.float16,
        }[name]
    if checkpoint.dtype == torch.float32 and checkpoint.nbytes > HALVED_ABOVE:
        return torch.bfloat16
    return checkpoint.dtype

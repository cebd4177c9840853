"""One process or many: the device, the process group, and the few collectives that training needs.

`torchrun` tells every process RANK, WORLD_SIZE and LOCAL_RANK. Where these are absent, or the world has one member,
there is no process group, and every function here does what it would do among many.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from detector.device import choose_device
from maenas.errors import MaenasError, SharedError


@dataclass(frozen=True)
class World:
    """This process among `size` equal ones: number `rank`, computing on `device`."""

    rank: int
    size: int
    device: torch.device
    local_rank: int = 0  # number among the `local_size` processes of the same node, which have consecutive ranks
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0


@contextmanager
def join_world(device: str = "auto") -> Iterator[World]:
    """The processes that `torchrun` started, joined until the block ends: nccl for what lies on GPUs, gloo elsewhere.

    `device` as for `choose_device`, which raises MaenasError for one that is not there; several processes share none
    but the CPU.
    """
    rank, size, local = from_torchrun("RANK", 0), from_torchrun("WORLD_SIZE", 1), from_torchrun("LOCAL_RANK", 0)
    chosen = choose_device(device, local_rank=local if size > 1 else 0)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size == 1:
        yield World(0, 1, chosen)
        return
    if chosen.type == "mps" or (chosen.type == "cuda" and device not in ("auto", "cuda")):
        raise MaenasError(f"{size} processes cannot all train on {chosen}; choose cuda, for a GPU each, or cpu")
    here = from_torchrun("LOCAL_WORLD_SIZE", size)
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing or rank >= size or local >= here or local > rank:
        what = f"{' and '.join(missing)} missing" if missing else f"RANK {rank}, LOCAL_RANK {local}"
        raise MaenasError(f"WORLD_SIZE is {size}, but {what}; start the processes with torchrun, or unset WORLD_SIZE")
    try:
        store, _, _ = next(iter(rendezvous("env://")))
        # The store of torchrun outlives a restart, and with it the addresses of processes that are gone.
        store = PrefixStore(f"maenas-{from_torchrun('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    except (ValueError, RuntimeError) as error:
        raise MaenasError(f"the {size} processes cannot be joined: {str(error).splitlines()[0]}") from error
    try:
        yield World(rank, size, chosen, local, here)
    except BaseException:
        if chosen.type != "cuda":  # NCCL waits for the others there, and they for this process
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def from_torchrun(name: str, default: int) -> int:
    """A variable of the environment that torchrun sets; raises `MaenasError` where it is not a number."""
    text = os.environ.get(name) or str(default)
    if not (text.isascii() and text.isdecimal() and len(text) < 8):
        raise MaenasError(f"the environment variable {name} is {text!r}; it must be a number, as torchrun sets it")
    return int(text)


def process_count() -> int:
    """Number of processes in the group; 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def was_restarted() -> bool:
    """Whether torchrun started these processes again after one of them had failed."""
    return from_torchrun("TORCHELASTIC_RESTART_COUNT", 0) > 0


def any_process(*flags: bool) -> tuple[bool, ...]:
    """Which of the `flags` hold in one of the processes; the GPUs go on meanwhile."""
    if process_count() == 1:
        return flags
    numbers = torch.tensor([int(flag) for flag in flags])
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return tuple(map(bool, numbers.tolist()))


def wait_for_all() -> None:
    """Returns when every process has come here."""
    any_process(False)


def from_main(world: World, make: Callable[[], bytes]) -> bytes:
    """What `make` returns in the main process, which alone calls it; its MaenasError is raised in every process."""
    if world.size == 1:
        return make()
    data, error = b"", None
    if world.is_main:
        try:
            data = make()
        except MaenasError as caught:
            data, error = str(caught).encode(), caught
    head = torch.tensor([len(data), int(error is not None)])
    dist.broadcast(head, 0)
    length, failed = head.tolist()
    body = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(length, dtype=torch.uint8)
    if length:
        dist.broadcast(body, 0)
    if error is not None:
        raise error
    if failed:
        raise SharedError(body.numpy().tobytes().decode())
    return data or body.numpy().tobytes()


@contextmanager
def told_by_main(world: World) -> Iterator[None]:
    """For what fails in all processes alike: the others leave the message to the main one."""
    try:
        yield
    except MaenasError as error:
        if world.is_main:
            raise
        raise SharedError(str(error)) from error


@contextmanager
def lost_processes(advice: Callable[[], str]) -> Iterator[None]:
    """Raises MaenasError where another process of the group has ended, which torch tells in many ways."""
    try:
        yield
    except RuntimeError as error:
        text = (str(error).splitlines() or [""])[0][:200]
        if not (isinstance(error, dist.DistError) or any(name in text.lower() for name in ("gloo", "nccl"))):
            raise
        raise MaenasError(f"another process of the run has ended or cannot be reached ({text}); {advice()}") from error


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of `values` over the processes, on every one; `values` itself where there is no process group."""
    if process_count() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / process_count()


def same_as_main(tensors: Iterable[Tensor]) -> None:
    """Give `tensors` the values that they have in the main process."""
    if process_count() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes, `[sum of n, k]`, from `[n, k]` of each with its own `n`; in order of rank."""
    if not dist.is_initialized():
        return rows
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    most = int(max(counts))
    padded = torch.cat([rows, rows.new_zeros(most - len(rows), rows.shape[1])])
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])


def sync_batch_norm(net: nn.Module, device: torch.device) -> nn.Module:
    """`net` with batch statistics over the images of all processes; names and values of its state stay the same."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(net)
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, _SyncedBatchNorm(child))
    return net


class _Sum(torch.autograd.Function):
    """The sum over the processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradients[0])


class _SyncedBatchNorm(nn.BatchNorm2d):
    """`nn.SyncBatchNorm` refuses tensors that are not on a GPU; this one takes any."""

    def __init__(self, plain: nn.BatchNorm2d) -> None:
        super().__init__(plain.num_features, plain.eps, plain.momentum, plain.affine, plain.track_running_stats)
        self.weight, self.bias = plain.weight, plain.bias
        self.load_state_dict(plain.state_dict())
        self.train(plain.training)

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and dist.is_initialized()):
            return super().forward(input)
        x = input.float()
        count = _Sum.apply(x.new_full((1,), x.numel() / x.shape[1]))
        mean = _Sum.apply(x.sum((0, 2, 3))) / count  # [C]
        centred = x - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count  # [C]
        self._follow(mean.detach(), (variance * count / (count - 1)).detach())
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    def _follow(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        """Move the running statistics by one batch."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased_variance, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)

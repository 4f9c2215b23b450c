"""The gradient of a loss that looks at a whole batch, when no device holds the whole batch at once.

SelfCon compares every image of a batch with every other, so the batch cannot be cut like that of a classifier. What is small
are the network's answers: they are gathered from every process, the loss and its gradient with respect to them are taken over
all, and each process carries its own share of that gradient back through its network. Summed over the processes that is the
gradient of the one large batch. Within a process the same is done in chunks (gradient caching, arXiv 2101.06983): a first pass
without activations for the answers, a second with them, a chunk at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

Answers = tuple["Tensor", ...]


def backward(
    network: nn.Module,
    chunks: Sequence[Tensor],
    answer: Callable[[Tensor, int], Answers],
    loss: Callable[[Answers], Tensor],
    accelerator: Any,
) -> Tensor:
    """Adds the gradient of `loss` over every process's `chunks` to the parameters of `network`; gives the loss.

    `answer(chunk, number)`: what the loss needs of a chunk, each with the chunk's rows first; the same for the same number (it
    is called twice where there are several chunks). `loss`: of the answers to the whole batch, processes in order, in float32
    or finer.
    """
    import torch

    if len(chunks) == 1:
        kept = [answer(chunks[0], 0)]
    else:
        with torch.no_grad(), untouched_statistics(network):
            kept = [answer(chunk, number) for number, chunk in enumerate(chunks)]
    mine = [torch.cat([part[i].detach() for part in kept]) for i in range(len(kept[0]))]
    # Half precision is for the network: the loss adds up exponentials.
    mine = [part.to(torch.promote_types(part.dtype, torch.float32)) for part in mine]
    whole = tuple(_gathered(part, accelerator).requires_grad_() for part in mine)
    value = loss(whole)
    accelerator.backward(value)
    start = accelerator.process_index * len(mine[0])
    for number, chunk in enumerate(chunks):
        answers = kept[number] if len(chunks) == 1 else answer(chunk, number)
        pairs = [
            (part, leaf.grad[start : start + len(chunk)].to(part.dtype))
            for part, leaf in zip(answers, whole, strict=True)
            if part.requires_grad and leaf.grad is not None
        ]
        torch.autograd.backward([part for part, _ in pairs], [grad for _, grad in pairs])
        start += len(chunk)
    _summed([p for p in network.parameters() if p.requires_grad], accelerator)
    return value.detach()


@contextlib.contextmanager
def untouched_statistics(network: nn.Module) -> Iterator[None]:
    """Puts back what batch norm counts as it goes: a pass that is repeated must not count twice."""
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in network.named_buffers():
            buffer.copy_(before[name])


def averaged_statistics(network: nn.Module, accelerator: Any) -> None:
    """Gives every process the mean of what batch norm counted on each, so that all keep the same network."""
    if accelerator.num_processes == 1:
        return
    import torch

    for buffer in network.buffers():
        if buffer.is_floating_point():
            torch.distributed.all_reduce(buffer)
            buffer.div_(accelerator.num_processes)


def _gathered(part: Tensor, accelerator: Any) -> Tensor:
    """The rows of every process, in the order of the processes; each has as many."""
    if accelerator.num_processes == 1:
        return part
    import torch

    found = [torch.empty_like(part) for _ in range(accelerator.num_processes)]
    torch.distributed.all_gather(found, part.contiguous())
    return torch.cat(found)


def _summed(parameters: Sequence[Tensor], accelerator: Any) -> None:
    """The sum of every process's gradients, in one message."""
    if accelerator.num_processes == 1:
        return
    import torch

    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    torch.distributed.all_reduce(flat)
    at = 0
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = flat[at : at + grad.numel()].view_as(grad).clone()
        at += grad.numel()

"""The linear chain on PyTorch: hand-written first derivatives, log space for all others.

The sums themselves are those of `torch_sums`.
"""

from __future__ import annotations

from typing import Any

import torch

from finegrain.crf.chain import Chain, Scores, ends
from finegrain.crf.kernels import log_space, viterbi, viterbi_on_host
from finegrain.crf.kernels.torch_sums import sums
from finegrain.crf.score import difference

Tensor = torch.Tensor


def score(chain: Chain, tags: Tensor) -> Tensor:
    """Compute the scores, (B,), of (B, T) tags by look-ups: fewer launches than `score.score`."""
    emissions, transitions, start, end = chain.scores
    tags = torch.where(chain.valid, tags, 0).long()
    is_first, is_last = ends(chain)
    pairs = _tags_before(chain, tags) * chain.scores.num_tags + tags  # (B, T)
    if chain.scores.per_step:
        moves = transitions.flatten(2).gather(2, pairs[:, :, None])[:, :, 0]
    else:
        moves = transitions.flatten()[pairs]
    used = torch.where(is_first, start[tags], moves)
    used = used + torch.where(is_last, end[tags], 0)
    used = used + emissions.gather(2, tags[:, :, None])[:, :, 0]
    return torch.where(chain.valid, used, 0).sum(1)


def _tags_before(chain: Chain, tags: Tensor) -> Tensor:
    """Find the tag at the last valid position before each, (B, T); any tag where there is none."""
    if chain.mask is None:
        return torch.nn.functional.pad(tags, (1, -1))
    time = torch.arange(tags.shape[1], device=tags.device)
    latest = torch.where(chain.mask, time, 0).cummax(1).values
    return tags.gather(1, torch.nn.functional.pad(latest, (1, -1)))


def log_prob(chain: Chain, tags: Tensor) -> Tensor:
    """Compute the log-probabilities, (B,), of (B, T) tags."""
    if _needs_log_space(chain):
        return _plain(chain, tags)
    return _Weight.apply(*chain.scores, chain.mask, tags)


def log_partition(chain: Chain) -> Tensor:
    """Compute the log-partition, (B,)."""
    if _needs_log_space(chain):
        return _plain(chain, None)
    return -_Weight.apply(*chain.scores, chain.mask, None)


def marginals(chain: Chain) -> Tensor:
    """Compute the probability of each tag at each position: (B, T, K), 0 where masked."""
    if _needs_log_space(chain) or _wants_gradient(chain):
        return log_space.counts(chain.shifted()[0])[1].emissions
    found = sums(chain.scores, chain.mask, None)
    weight = found.value.new_full(found.value.shape, -1)
    expected = found.backward(weight, found.saved)[0]
    return expected if chain.mask is None else torch.where(chain.mask[:, :, None], expected, 0)


def best_tags(chain: Chain) -> Tensor:
    """Find the best tags, (B, T) int32; anything where masked."""
    if _needs_log_space(chain) or chain.scores.emissions.device.type != "cpu":
        return viterbi.best_tags(chain.shifted()[0])
    mask = None if chain.mask is None else chain.mask.numpy()
    emissions, transitions, start, end = (x.detach().numpy() for x in chain.scores)
    found = viterbi_on_host.best_tags(emissions, transitions, start, end, mask)
    return torch.from_numpy(found)


def _plain(chain: Chain, tags: Tensor | None) -> Tensor:
    shifted, offset = chain.shifted()
    total, _ = log_space.forward(shifted)
    if tags is None:
        return total + offset
    return difference(score(shifted, tags), total)


def _needs_log_space(chain: Chain) -> bool:
    """Return whether the hand-written gradient cannot serve, so that log space has to.

    It serves plain reverse mode, outside compilers, on chains that share transitions and are not
    empty.
    """
    batch, time, _ = chain.scores.emissions.shape
    return (
        chain.scores.per_step
        or batch == 0
        or time == 0
        or torch.compiler.is_compiling()
        or torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore[reportAttributeAccessIssue]
        or any(torch.autograd.forward_ad.unpack_dual(x).tangent is not None for x in chain.scores)
    )


def _wants_gradient(chain: Chain) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in chain.scores)


class _Weight(torch.autograd.Function):
    """Log-probabilities of tags, or, without tags, minus the log-partition."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        *scores, mask, tags = inputs
        found = sums(Scores(*scores), mask, tags)
        ctx.save_for_backward(*scores, mask, tags, *found.saved)
        ctx.backward = found.backward
        return found.value

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        *scores, mask, tags = ctx.saved_tensors[:6]
        (weight,) = upstream
        if torch.is_grad_enabled():  # A gradient of this gradient is wanted.
            value = _plain(Chain(Scores(*scores), mask), tags)
            value = -value if tags is None else value
            found = torch.autograd.grad(
                value, scores, weight, create_graph=True, allow_unused=True, materialize_grads=True
            )
        else:
            found = ctx.backward(weight, ctx.saved_tensors[6:])
        return *found, None, None

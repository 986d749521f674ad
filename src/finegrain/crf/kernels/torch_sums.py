"""Sums over tag sequences on PyTorch: eager loops of few launches, and their gradients.

What costs here is the launch of each operation. Both directions walk in one loop, in place; each
sequence is gathered so that its first step is its first, or its last, valid position, so that the
loop needs no mask. Where the range of transitions, start and end is at most `NARROW`, sums cannot
underflow between two normalizations that are several steps apart (see `probability_space`, "The
bound"), and neither floor nor certificate is needed.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from finegrain.crf.chain import Chain, Scores
from finegrain.crf.kernels import log_space
from finegrain.crf.kernels.probability_space import Limits
from finegrain.crf.score import difference, score

Tensor = torch.Tensor

# In nats. Between two normalizations sums fall to e^-20 at least, and what underflows below
# e^-87 could have come back by e^40: it is less than e^-27 of the whole.
NARROW = 20.0
# In nats: how much sums may grow between two normalizations.
GROWTH = 40.0
# Of so many steps products are summed up at a time.
RUN = 64
# Up to so many tags one product with a block-diagonal matrix is faster than two.
MOST_IN_BLOCKS = 16


class _Steps(NamedTuple):
    """A mask as steps: the valid positions of each sequence first, in their order.

    Attributes:
        inside: (T, B) boolean: steps that are a position; None where all are.
        last: (B,) the last step.
        forwards: (T, B) where in (B · T,) rows each step's position is.
        turned: (T, B) the steps from the last one back; those outside stay.
        placed: (B · T,) where in (T · B,) rows each position's step is; None where it is its time.
    """

    inside: Any
    last: Tensor
    forwards: Tensor
    turned: Tensor
    placed: Any


def _steps(mask: Tensor | None, batch: int, time: int, device: Any) -> _Steps:
    row = torch.arange(batch, device=device)
    step = torch.arange(time, device=device)[:, None]
    if mask is None:
        last = torch.full_like(row, time - 1)
        return _Steps(None, last, step + row * time, (time - 1 - step).expand(-1, batch), None)
    length = mask.sum(1)
    inside = step < length
    turned = torch.where(inside, length - 1 - step, step)
    placed = None
    if bool((mask[:, :-1] | ~mask[:, 1:]).all()):
        forwards = step + row * time
    else:  # There are holes, or padding comes first.
        forwards = torch.argsort(~mask, dim=1, stable=True).t() + row * time
        placed = ((mask.cumsum(1) - 1).clamp_min_(0) * batch + row[:, None]).flatten()
    return _Steps(inside, (length - 1).clamp_min_(0), forwards, turned, placed)


class Found(NamedTuple):
    """A value, the tensors that its backward pass needs, and the function of that pass."""

    value: Tensor
    saved: tuple[Tensor | None, ...]
    backward: Any


def sums(scores: Scores, mask: Tensor | None, tags: Tensor | None) -> Found:
    """Compute the log-probability of tags, or, without tags, minus the log-partition.

    Args:
        scores: Those of a chain, with transitions that all steps share.
        mask: (B, T) boolean, or None.
        tags: (B, T), or None.

    Returns:
        The values (B,), and the function that weighs their gradients.
    """
    emissions, transitions, start, end = scores
    batch, time, num_tags = emissions.shape
    steps = _steps(mask, batch, time, emissions.device)
    peak = emissions.amax(2)  # (B, T)
    shared = torch.cat([transitions.flatten(), start, end])
    low, high = torch.aminmax(shared)
    # A position without a possible tag is −inf, NaN is NaN: neither is narrow.
    width = float(high - low - peak.min().clamp_max(0) * 0)
    narrow = width <= NARROW
    half, floor, apart = 1.0, 0.0, 1
    if narrow:
        shared -= high
        peaks = (high, high, high)
        apart = int(min(NARROW / max(width, 1e-9), GROWTH / max(math.log(num_tags), 1e-9), 64))
        apart = max(apart, 1)
    else:
        limits = Limits.of(emissions.dtype)
        half, floor = 2.0 ** (limits.scale // 2), 2.0**limits.floor
        peak = _finite_peak(peak)
        peaks = [_finite_peak(part.max()) for part in scores[1:]]
        shared = torch.cat([(x - p).flatten() for x, p in zip(scores[1:], peaks, strict=True)])
    square = num_tags * num_tags
    start, end = shared[square:].view(2, num_tags).unbind(0)
    gold = pairs = labels = None
    if tags is not None:
        labels = tags.long() if mask is None else torch.where(mask, tags, 0).long()
        gold = (emissions.gather(2, labels[:, :, None])[:, :, 0] - peak).flatten()[steps.forwards]
        labels = labels.flatten()[steps.forwards]  # (T, B)
        pairs = labels[:-1] * num_tags + labels[1:]
        gold[1:] += shared[pairs]

    # Both directions side by side: (T, B, 2, K) or (T, 2, B, K).
    axis = 2 if num_tags <= MOST_IN_BLOCKS else 1
    positions = torch.stack([steps.forwards, steps.forwards.gather(0, steps.turned)], axis)
    both = emissions.flatten(0, 1).index_select(0, positions.flatten())
    both.sub_(peak.flatten()[positions.flatten(), None])
    if narrow:
        both.exp_()
    else:
        both.mul_(0.5).exp_().mul_(half).square_()
    both = both.view(*positions.shape, num_tags)
    weights = shared.exp()
    moves, first = weights[:square].view(num_tags, num_tags), weights[square : square + num_tags]
    prior = weights[square:].view(2, num_tags)
    final = prior[1]
    if floor:
        prior = prior + prior.new_tensor([[floor], [0.0]])
    both[0].mul_(prior if axis == 2 else prior[:, None])
    norms, sums = _walk(both, moves, floor, apart)[..., 0].unbind(axis)  # (T / apart, B) each
    left = both.select(axis, 0)  # (T, B, K)
    row = torch.arange(batch, device=emissions.device)
    if axis == 2:
        turned = (steps.turned * batch + row) * 2 + 1
    else:
        turned = (steps.turned * 2 + 1) * batch + row
    right = both.flatten(0, 2).index_select(0, turned.flatten()).view(time, batch, num_tags)
    marginals = torch.empty_like(right)  # so far what is predicted from the left
    marginals[0] = first
    torch.mm(left[:-1].flatten(0, 1), moves, out=marginals[1:].view(-1, num_tags))
    marginals.mul_(right)
    overlap = marginals.sum(2)  # (T, B)
    ending = left[steps.last, row] @ final  # (B,)
    empty = None if steps.inside is None else ~steps.inside[0]

    if not narrow:
        tolerance = Limits.of(emissions.dtype).tolerance
        least = 2.0 * floor * 2.0**-tolerance * (time + 1)
        # As strict as `probability_space.counts`, which looks at the largest share.
        certified = (overlap >= num_tags * least) & (sums >= 1)
        met = ending >= least
        if steps.inside is not None:
            certified, met = certified | ~steps.inside, met | empty
        if not bool(certified.all() & met.all()):
            return _log_space_sums(scores, mask, tags)

        if steps.inside is not None:  # Outside messages may have died: 0 / 0.
            for messages in (marginals, left, right):
                messages.masked_fill_(~steps.inside[:, :, None], 0)
    share = overlap.reciprocal_()
    terms = torch.zeros_like(share) if gold is None else gold  # (T, B)
    terms[::apart] -= (norms / half / half).log_()
    if steps.inside is not None:
        share = torch.where(steps.inside, share, 0)
        terms = torch.where(steps.inside, terms, 0)
    value = terms.sum(0) - ending.log_()
    if labels is not None:
        value += start[labels[0]] + end[labels[steps.last, row]]
    else:
        lost = peak if mask is None else torch.where(mask, peak, 0)
        links = steps.last * peaks[0]
        value -= lost.sum(1) + links + peaks[1] + peaks[2]
    if empty is not None:
        value = torch.where(empty, 0, value)
    possible = scores.start > -math.inf
    saved = (marginals, left, right, share, moves, possible, labels, pairs, value, *steps)
    return Found(value, saved, _backward)


def _finite_peak(peak: Tensor) -> Tensor:
    return torch.where(peak.isfinite(), peak, 0)


def _backward(weight: Tensor, saved: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the scores' gradients: tag counts less expected counts, times (B,) weights."""
    marginals, left, right, share, moves, possible, labels, pairs, value = saved[:9]
    steps = _Steps(*saved[9:])
    weight = torch.where(value > -math.inf, weight, 0)  # Nothing moves what is impossible.
    share = (share * -weight)[:, :, None]  # (T, B, 1)
    emissions = marginals * share  # (T, B, K)
    transitions = _sum_of_products(left[:-1], right[1:] * share[1:]).mul_(moves).flatten()
    if labels is not None:
        inside = weight.expand(labels.shape)
        if steps.inside is not None:
            inside = torch.where(steps.inside, inside, 0)
        emissions.scatter_add_(2, labels[:, :, None], inside[:, :, None])
        transitions.scatter_add_(0, pairs.reshape(-1), inside[1:].reshape(-1))
    row = torch.arange(len(weight), device=weight.device)
    # Of a forbidden first tag, what the floor put there is left.
    start = emissions[0].sum(0).masked_fill_(~possible, 0)
    end = emissions[steps.last, row].sum(0)
    if steps.placed is not None:
        batch = emissions.shape[1]
        emissions = emissions.flatten(0, 1).index_select(0, steps.placed).unflatten(0, (batch, -1))
        return emissions, transitions.view_as(moves), start, end
    return emissions.transpose(0, 1), transitions.view_as(moves), start, end


def _sum_of_products(a: Tensor, b: Tensor) -> Tensor:
    """Sum the products of two (T, B, K) tensors over T and B, to (K, K).

    This goes in runs, for sums of many terms lose digits.
    """
    time, batch, num_tags = a.shape
    runs = time // RUN
    total = torch.mm(a[runs * RUN :].flatten(0, 1).t(), b[runs * RUN :].flatten(0, 1))
    if runs:
        a, b = (x[: runs * RUN].reshape(runs, RUN * batch, num_tags) for x in (a, b))
        total += torch.bmm(a.transpose(1, 2), b).sum(0)
    return total


def _log_space_sums(scores: Scores, mask: Tensor | None, tags: Tensor | None) -> Found:
    """Compute what `sums` does by the log-space recursions, which are right everywhere."""
    chain, offset = Chain(scores, mask).shifted()
    total, used = log_space.counts(chain)
    if tags is None:
        return Found(-(total + offset), used, _log_space_backward)
    value = difference(score(chain, tags), total)
    return Found(value, (*used, *chain.scores, mask, tags, value), _log_space_backward)


def _log_space_backward(weight: Tensor, saved: Any) -> Scores:
    used, rest = Scores(*saved[:4]), saved[4:]
    if rest:
        weight = torch.where(rest[-1] > -math.inf, weight, 0)
    found = Scores(
        emissions=used.emissions * -weight[:, None, None],
        transitions=torch.einsum("bij,b->ij", used.transitions, -weight),
        start=-weight @ used.start,
        end=-weight @ used.end,
    )
    if not rest:
        return found
    *scores, mask, tags, _ = rest
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in scores]
        mine = score(Chain(Scores(*inputs), mask), tags)
        gold = torch.autograd.grad(mine, inputs, weight)
    return Scores(*(a + b for a, b in zip(found, gold, strict=True)))


def _walk(both: Tensor, moves: Tensor, floor: float, apart: int) -> Tensor:
    """Walk in both directions at once, in place.

    Args:
        both: Exponentiated emissions, forwards from the first step and backwards from the last,
            of which the first already meet what is before them. (T, B, 2, K): by products with
            one block-diagonal matrix; (T, 2, B, K): by batched products. They become messages.
        moves: (K, K).
        floor: What is added to the messages forwards.
        apart: How many steps lie between two normalizations.

    Returns:
        The sums that were divided out at every `apart`-th step, shaped as those steps.
    """
    num_tags = moves.shape[0]
    if num_tags <= MOST_IN_BLOCKS:
        steps = both.flatten(2).unbind(0)
        moves = torch.block_diag(moves, moves.t())
        product, added = torch.mm, torch.addmm
    else:
        steps = both.unbind(0)
        moves = torch.stack([moves, moves.t()])
        product, added = torch.bmm, torch.baddbmm
    floors = None
    if floor:
        floors = moves.new_tensor([[floor], [0.0]])  # of either direction
        floors = floors.expand(2, num_tags).flatten() if moves.dim() == 2 else floors[:, None]
        floors = floors.expand(steps[0].shape)
    normalized = both[::apart]
    sums = torch.empty_like(normalized[..., :1])
    parts = zip(normalized.unbind(0), sums.unbind(0), strict=True)
    moved = torch.empty_like(steps[0])
    before = None
    for t, here in enumerate(steps):
        if before is not None:
            if floors is not None:
                added(floors, before, moves, out=moved)
            else:
                product(before, moves, out=moved)
            here.mul_(moved)
        if t % apart == 0:
            part, total = next(parts)
            torch.sum(part, 2, True, out=total)
            part.div_(total)
        before = here
    return sums

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


class _Scaled(NamedTuple):
    """Scores lowered by their peaks, and what keeps sums of their exponentials normal numbers.

    Attributes:
        peak: (B, T) what emissions are lowered by.
        peaks: What transitions, start and end are lowered by.
        shared: (K · K + 2 · K,) transitions, start and end, lowered.
        narrow: Whether the range of `shared` is at most `NARROW`, so that no sum can underflow.
        half: The root of a factor on exponentiated emissions.
        floor: What messages forwards are raised by at each step.
        apart: How many steps lie between two normalizations.
    """

    peak: Tensor
    peaks: Any
    shared: Tensor
    narrow: bool
    half: float
    floor: float
    apart: int


class _Gold(NamedTuple):
    """Given tags as steps, and what they score.

    Attributes:
        labels: (T, B) the tags.
        pairs: (T − 1, B) where in flattened transitions each pair of neighbours is.
        terms: (T, B) each step's score: its emission and the transition that enters it.
    """

    labels: Tensor
    pairs: Tensor
    terms: Tensor


class _Messages(NamedTuple):
    """What the walks in both directions leave.

    Attributes:
        left: (T, B, K) from the first step.
        right: (T, B, K) from the last step.
        marginals: (T, B, K) unnormalized.
        overlap: (T, B) the sums of `marginals`.
        ending: (B,) what all sequences come to after the last step.
        norms: (T / apart, B) what was divided out on the way from the first step.
        sums: (T / apart, B) on the way from the last one.
        moves: (K, K) exponentiated transitions.
    """

    left: Tensor
    right: Tensor
    marginals: Tensor
    overlap: Tensor
    ending: Tensor
    norms: Tensor
    sums: Tensor
    moves: Tensor


def sums(scores: Scores, mask: Tensor | None, tags: Tensor | None) -> Found:
    """Compute the log-probability of tags, or, without tags, minus the log-partition.

    Args:
        scores: Those of a chain, with transitions that all steps share.
        mask: (B, T) boolean, or None.
        tags: (B, T), or None.

    Returns:
        The values (B,), and the function that weighs their gradients.
    """
    batch, time, num_tags = scores.emissions.shape
    steps = _steps(mask, batch, time, scores.emissions.device)
    scaled = _scaled(scores)
    gold = None if tags is None else _gold(scores, mask, tags, scaled, steps)
    found = _messages(scores, scaled, steps)
    if not scaled.narrow:
        if not _certified(found, scaled, steps):
            return _log_space_sums(scores, mask, tags)
        if steps.inside is not None:  # Outside messages may have died: 0 / 0.
            for messages in (found.marginals, found.left, found.right):
                messages.masked_fill_(~steps.inside[:, :, None], 0)

    share = found.overlap.reciprocal_()
    terms = torch.zeros_like(share) if gold is None else gold.terms  # (T, B)
    terms[:: scaled.apart] -= (found.norms / scaled.half / scaled.half).log_()
    if steps.inside is not None:
        share = torch.where(steps.inside, share, 0)
        terms = torch.where(steps.inside, terms, 0)
    value = terms.sum(0) - found.ending.log_()
    if gold is not None:
        start, end = scaled.shared[-2 * num_tags :].view(2, num_tags).unbind(0)
        row = torch.arange(batch, device=value.device)
        value += start[gold.labels[0]] + end[gold.labels[steps.last, row]]
    else:
        lost = scaled.peak if mask is None else torch.where(mask, scaled.peak, 0)
        links = steps.last * scaled.peaks[0]
        value -= lost.sum(1) + links + scaled.peaks[1] + scaled.peaks[2]
    if steps.inside is not None:  # A chain without a position has one sequence.
        value = torch.where(steps.inside[0], value, 0)
    possible = scores.start > -math.inf
    labels, pairs = (None, None) if gold is None else (gold.labels, gold.pairs)
    kept = (found.marginals, found.left, found.right, share, found.moves)
    return Found(value, (*kept, possible, labels, pairs, value, *steps), _backward)


def _scaled(scores: Scores) -> _Scaled:
    """Lower scores by their peaks, and choose how often sums are normalized."""
    emissions, *others = scores
    peak = emissions.amax(2)  # (B, T)
    shared = torch.cat([part.flatten() for part in others])
    low, high = torch.aminmax(shared)
    # −inf (a position without a possible tag) and NaN both fail the test of a narrow range.
    width = float(high - low - peak.min().clamp_max(0) * 0)
    if width <= NARROW:
        growth = math.log(emissions.shape[2])
        apart = int(min(NARROW / max(width, 1e-9), GROWTH / max(growth, 1e-9), 64))
        return _Scaled(peak, (high, high, high), shared - high, True, 1.0, 0.0, max(apart, 1))
    limits = Limits.of(emissions.dtype)
    peaks = [_finite_peak(part.max()) for part in others]
    shared = torch.cat([(x - p).flatten() for x, p in zip(others, peaks, strict=True)])
    half, floor = 2.0 ** (limits.scale // 2), 2.0**limits.floor
    return _Scaled(_finite_peak(peak), peaks, shared, False, half, floor, 1)


def _gold(
    scores: Scores, mask: Tensor | None, tags: Tensor, scaled: _Scaled, steps: _Steps
) -> _Gold:
    """Score the given tags step by step, but for what start and end add."""
    labels = tags.long() if mask is None else torch.where(mask, tags, 0).long()
    terms = scores.emissions.gather(2, labels[:, :, None])[:, :, 0] - scaled.peak
    terms = terms.flatten()[steps.forwards]  # (T, B)
    labels = labels.flatten()[steps.forwards]
    pairs = labels[:-1] * scores.num_tags + labels[1:]
    terms[1:] += scaled.shared[pairs]
    return _Gold(labels, pairs, terms)


def _messages(scores: Scores, scaled: _Scaled, steps: _Steps) -> _Messages:
    """Walk in both directions, and multiply what they leave to marginals."""
    batch, time, num_tags = scores.emissions.shape
    # Both directions side by side: (T, B, 2, K) or (T, 2, B, K).
    axis = 2 if num_tags <= MOST_IN_BLOCKS else 1
    positions = torch.stack([steps.forwards, steps.forwards.gather(0, steps.turned)], axis)
    both = scores.emissions.flatten(0, 1).index_select(0, positions.flatten())
    both.sub_(scaled.peak.flatten()[positions.flatten(), None])
    if scaled.narrow:
        both.exp_()
    else:
        both.mul_(0.5).exp_().mul_(scaled.half).square_()
    both = both.view(*positions.shape, num_tags)
    weights = scaled.shared.exp()
    square = num_tags * num_tags
    moves, prior = weights[:square].view(num_tags, num_tags), weights[square:].view(2, num_tags)
    first, final = prior.unbind(0)
    if scaled.floor:
        prior = prior + prior.new_tensor([[scaled.floor], [0.0]])
    both[0].mul_(prior if axis == 2 else prior[:, None])
    norms, sums = _walk(both, moves, scaled.floor, scaled.apart)[..., 0].unbind(axis)
    left = both.select(axis, 0)  # (T, B, K)
    row = torch.arange(batch, device=both.device)
    if axis == 2:
        turned = (steps.turned * batch + row) * 2 + 1
    else:
        turned = (steps.turned * 2 + 1) * batch + row
    right = both.flatten(0, 2).index_select(0, turned.flatten()).view(time, batch, num_tags)
    marginals = torch.empty_like(right)  # so far what is predicted from the left
    marginals[0] = first
    torch.mm(left[:-1].flatten(0, 1), moves, out=marginals[1:].view(-1, num_tags))
    marginals.mul_(right)
    ending = left[steps.last, row] @ final
    return _Messages(left, right, marginals, marginals.sum(2), ending, norms, sums, moves)


def _certified(found: _Messages, scaled: _Scaled, steps: _Steps) -> bool:
    """Tell whether nothing was lost, as strictly as `probability_space.counts` does."""
    time, _, num_tags = found.marginals.shape
    tolerance = Limits.of(found.marginals.dtype).tolerance
    least = 2.0 * scaled.floor * 2.0**-tolerance * (time + 1)
    certified = (found.overlap >= num_tags * least) & (found.sums >= 1)
    met = found.ending >= least
    if steps.inside is not None:
        certified, met = certified | ~steps.inside, met | ~steps.inside[0]
    return bool(certified.all() & met.all())


def _finite_peak(peak: Tensor) -> Tensor:
    return torch.where(peak.isfinite(), peak, 0)


def _backward(weight: Tensor, saved: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the scores' gradients: tag counts less expected counts, times (B,) weights."""
    marginals, left, right, share, moves, possible, labels, pairs, value = saved[:9]
    steps = _Steps(*saved[9:])
    weight = torch.where(value > -math.inf, weight, 0)  # An impossible sequence has no gradient.
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
    # A forbidden first tag still holds what the floor put there.
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

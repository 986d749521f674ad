"""The linear chain on PyTorch: eager loops of few launches, and a hand-written gradient.

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

from finegrain.crf import log_space, viterbi
from finegrain.crf.chain import Chain, Scores, ends
from finegrain.crf.probability_space import Limits
from finegrain.crf.score import difference

Tensor = torch.Tensor

# In nats. Between two normalizations sums fall to e^-20 at least, and what underflows below
# e^-87 could have come back by e^40: it is less than e^-27 of the whole.
NARROW = 20.0
# In nats: how much sums may grow between two normalizations.
GROWTH = 40.0
# Up to so many tags one product with a block-diagonal matrix is faster than two.
MOST_IN_BLOCKS = 16


def score(chain: Chain, tags: Tensor) -> Tensor:
    """(B,) of (B, T) tags: by look-ups, which cost less launches than `score.score`."""
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
    """(B, T) the tag at the last valid position before each; any tag where there is none."""
    if chain.mask is None:
        return torch.nn.functional.pad(tags, (1, -1))
    time = torch.arange(tags.shape[1], device=tags.device)
    latest = torch.where(chain.mask, time, 0).cummax(1).values
    return tags.gather(1, torch.nn.functional.pad(latest, (1, -1)))


def log_prob(chain: Chain, tags: Tensor) -> Tensor:
    """(B,) of (B, T) tags."""
    if _needs_log_space(chain):
        return _plain(chain, tags)
    return _Weight.apply(*chain.scores, chain.mask, tags)


def log_partition(chain: Chain) -> Tensor:
    """(B,)."""
    if _needs_log_space(chain):
        return _plain(chain, None)
    return -_Weight.apply(*chain.scores, chain.mask, None)


def marginals(chain: Chain) -> Tensor:
    """(B, T, K), 0 where masked."""
    if _needs_log_space(chain) or _wants_gradient(chain):
        return log_space.counts(chain.shifted()[0])[1].emissions
    found = _sums(chain.scores, chain.mask, None)
    weight = found.value.new_full(found.value.shape, -1)
    return found.backward(weight, found.saved)[0]


def best_tags(chain: Chain) -> Tensor:
    """(B, T) int32 tags; anything where masked."""
    if _needs_log_space(chain) or chain.scores.emissions.device.type != "cpu":
        return viterbi.best_tags(chain.shifted()[0])
    mask = None if chain.mask is None else chain.mask.numpy()
    scores = (x.detach().numpy() for x in chain.scores)
    return torch.from_numpy(viterbi.best_tags_on_host(*scores, mask))


def _plain(chain: Chain, tags: Tensor | None) -> Tensor:
    shifted, offset = chain.shifted()
    total, _ = log_space.forward(shifted)
    if tags is None:
        return total + offset
    return difference(score(shifted, tags), total)


def _needs_log_space(chain: Chain) -> bool:
    """Whether the hand-written gradient cannot serve: other than plain reverse mode, compilers."""
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
        found = _sums(Scores(*scores), mask, tags)
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


class _Steps(NamedTuple):
    """A mask as steps: how to take (T, B, …) tensors apart and put them together again.

    Attributes:
        inside: (T, B) boolean: steps that are a position; None where all are.
        last: (B,) the last step.
        turned: (T · B,) rows of the steps from the last back.
        forwards: (T · B,) rows of the times of the steps; None where steps are times.
        placed: (T · B,) rows of the steps of the times, for the way back.
        valid: (T, B) the mask, in time.
    """

    inside: Any
    last: Tensor
    turned: Any
    forwards: Any
    placed: Any
    valid: Any


def _steps(mask: Tensor | None, batch: int, time: int, device: Any) -> _Steps:
    if mask is None:
        last = torch.full((batch,), time - 1, device=device)
        return _Steps(None, last, None, None, None, None)
    row = torch.arange(batch, device=device)
    step = torch.arange(time, device=device)[:, None]
    length = mask.sum(1)
    inside = step < length
    turned = torch.where(inside, length - 1 - step, step).mul_(batch).add_(row).view(-1)
    forwards = placed = None
    if not bool((mask[:, :-1] | ~mask[:, 1:]).all()):  # There are holes, or padding comes first.
        times = torch.argsort(~mask, dim=1, stable=True)
        forwards = (times.t() * batch + row).reshape(-1)
        place = (mask.cumsum(1) - 1).clamp_min_(0)
        placed = (place.t() * batch + row).reshape(-1)
    last = (length - 1).clamp_min_(0)
    return _Steps(inside, last, turned, forwards, placed, mask.t())


def _rows(x: Tensor, rows: Tensor | None) -> Tensor:
    """(T, B, …) with its first two axes taken in another order."""
    return x if rows is None else x.flatten(0, 1).index_select(0, rows).view(x.shape)


class _Found(NamedTuple):
    """A value, what its backward needs, and that backward."""

    value: Tensor
    saved: tuple[Tensor | None, ...]
    backward: Any


def _sums(scores: Scores, mask: Tensor | None, tags: Tensor | None) -> _Found:
    emissions, transitions, start, end = scores
    batch, time, num_tags = emissions.shape
    steps = _steps(mask, batch, time, emissions.device)
    limits = Limits.of(emissions.dtype)
    ranges = [torch.aminmax(x) for x in (transitions, start, end)]
    peaks = [_finite_peak(high) for _, high in ranges]
    transitions, start, end = (x - peak for x, peak in zip(scores[1:], peaks, strict=True))
    highest = emissions.amax(2)  # (B, T)
    width = torch.stack([high - low for low, high in ranges]).max()
    width = float(torch.where(highest.min() > -math.inf, width, math.inf))
    narrow = width <= NARROW
    peak = _finite_peak(highest)  # (B, T)
    shifted = _rows((emissions - peak[:, :, None]).transpose(0, 1).contiguous(), steps.forwards)
    gold = pairs = labels = None
    if tags is not None:
        labels = tags.t().long()
        if mask is not None:
            labels = torch.where(steps.valid, labels, 0)
        labels = _rows(labels.contiguous(), steps.forwards)  # (T, B)
        pairs = labels[:-1] * num_tags + labels[1:]
        gold = shifted.gather(2, labels[:, :, None])[:, :, 0]
        gold[1:] += transitions.view(-1)[pairs]

    moves, first, final = transitions.exp(), start.exp(), end.exp()
    if narrow:
        scaled, scale, floor = shifted.exp_(), 1.0, 0.0
        apart = int(min(NARROW / max(width, 1e-9), GROWTH / max(math.log(num_tags), 1e-9), 64))
    else:
        half = 2.0 ** (limits.scale // 2)
        scaled = shifted.mul_(0.5).exp_().mul_(half).square_()
        scale, floor, apart = half * half, 2.0**limits.floor, 1
    walk = _walk_in_blocks if num_tags <= MOST_IN_BLOCKS else _walk_in_rows
    turned = scaled.flip(0) if steps.turned is None else _rows(scaled, steps.turned)
    left, right, sums = walk(scaled, turned, moves, first, final, floor, max(apart, 1))
    left = left.contiguous()
    right = right.flip(0) if steps.turned is None else _rows(right, steps.turned)
    marginals = torch.empty_like(left)  # so far what is predicted from the left
    marginals[0] = first
    torch.mm(left[:-1].view(-1, num_tags), moves, out=marginals[1:].view(-1, num_tags))
    marginals.mul_(right)
    overlap = marginals.sum(2)  # (T, B)
    row = torch.arange(batch, device=emissions.device)
    ending = (left[steps.last, row] * final).sum(1)  # (B,)
    empty = None if mask is None else ~steps.inside[0]

    if not narrow:
        least = 2.0 * floor * 2.0**-limits.tolerance * (time + 1)
        certified = (overlap >= least) & (sums[:, :, 1] >= 1)
        met = ending >= least
        if steps.inside is not None:
            certified, met = certified | ~steps.inside, met | empty
        if not bool(certified.all() & met.all()):
            return _log_space_sums(scores, mask, tags)

    if steps.inside is not None and not narrow:  # Outside messages may have died: 0 / 0.
        for messages in (marginals, left, right):
            messages.masked_fill_(~steps.inside[:, :, None], 0)
    weight = overlap.reciprocal_()
    terms = (sums[:, :, 0] / scale).log_().neg_()  # (T, B)
    if gold is not None:
        terms += gold
    if steps.inside is not None:
        weight = torch.where(steps.inside, weight, 0)
        terms = torch.where(steps.inside, terms, 0)
    marginals.mul_(weight[:, :, None])
    right.mul_(weight[:, :, None])
    ended = ending.log_().neg_()
    if labels is not None:
        ended += start[labels[0]] + end[labels[steps.last, row]]
    else:
        lost = peak if mask is None else torch.where(mask, peak, 0)
        links = steps.last * peaks[0]
        ended -= lost.sum(1) + links + peaks[1] + peaks[2]
    if empty is not None:
        ended = torch.where(empty, 0, ended)
    value = terms.sum(0) + ended
    saved = (marginals, left, right, moves, first > 0, labels, pairs, value, *steps)
    return _Found(value, saved, _backward)


def _finite_peak(peak: Tensor) -> Tensor:
    return torch.where(peak.isfinite(), peak, 0)


def _backward(weight: Tensor, saved: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the scores: counts of the tags less expected counts, times (B,) weights."""
    marginals, left, right, moves, possible, labels, pairs, value = saved[:8]
    steps = _Steps(*saved[8:])
    num_tags = marginals.shape[2]
    weight = torch.where(value > -math.inf, weight, 0)  # Nothing moves what is impossible.
    emissions = marginals * -weight[:, None]  # (T, B, K)
    expected = (left[:-1] * -weight[:, None]).view(-1, num_tags).t()
    transitions = torch.mm(expected, right[1:].view(-1, num_tags)).mul_(moves)
    if labels is not None:
        inside = weight.expand(labels.shape)
        if steps.inside is not None:
            inside = torch.where(steps.inside, inside, 0)
        emissions.scatter_add_(2, labels[:, :, None], inside[:, :, None])
        transitions.view(-1).scatter_add_(0, pairs.view(-1), inside[1:].reshape(-1))
    row = torch.arange(len(weight), device=weight.device)
    # Of a forbidden first tag, what the floor put there is left.
    start = emissions[0].sum(0).masked_fill_(~possible, 0)
    end = emissions[steps.last, row].sum(0)
    if steps.placed is not None:
        emissions = torch.where(steps.valid[:, :, None], _rows(emissions, steps.placed), 0)
    return emissions.transpose(0, 1), transitions, start, end


def _log_space_sums(scores: Scores, mask: Tensor | None, tags: Tensor | None) -> _Found:
    """The same by the recursions that are right everywhere."""
    chain, offset = Chain(scores, mask).shifted()
    total, used = log_space.counts(chain)
    if tags is None:
        return _Found(-(total + offset), used, _log_space_backward)
    value = difference(score(chain, tags), total)
    return _Found(value, (*used, *chain.scores, mask, tags, value), _log_space_backward)


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


def _walk_in_blocks(
    forwards: Tensor,
    backwards: Tensor,
    moves: Tensor,
    start: Tensor,
    end: Tensor,
    floor: float,
    apart: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Both directions by products with one block-diagonal matrix.

    Args:
        forwards: (T, B, K) emissions from the first step on.
        backwards: (T, B, K) those from the last step back.
        moves: (K, K).
        start: (K,).
        end: (K,).
        floor: On the messages forwards.
        apart: How many steps lie between two normalizations.

    Returns:
        Messages forwards and backwards, each (T, B, K), and (T, B, 2) sums that were divided out.
    """
    time, batch, num_tags = forwards.shape
    both = torch.cat([forwards, backwards], 2)  # (T, B, 2K)
    sums = both.new_ones((time, batch, 2, 1))
    split = both.view(time, batch, 2, num_tags).unbind(0)
    split[0].mul_(torch.stack([start + floor, end]))
    matrix = torch.block_diag(moves, moves.t())
    floors = torch.cat([torch.full_like(start, floor), torch.zeros_like(end)])
    steps, norms = both.unbind(0), sums.unbind(0)
    moved = torch.empty_like(steps[0])
    for t in range(time):
        if t > 0:
            if floor:
                torch.addmm(floors, steps[t - 1], matrix, out=moved)
            else:
                torch.mm(steps[t - 1], matrix, out=moved)
            steps[t].mul_(moved)
        if t % apart == 0:
            torch.sum(split[t], 2, True, out=norms[t])
            split[t].div_(norms[t])
    return both[:, :, :num_tags], both[:, :, num_tags:], sums[:, :, :, 0]


def _walk_in_rows(
    forwards: Tensor,
    backwards: Tensor,
    moves: Tensor,
    start: Tensor,
    end: Tensor,
    floor: float,
    apart: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same by one batched product."""
    time, batch, _ = forwards.shape
    both = torch.stack([forwards, backwards], 1)  # (T, 2, B, K)
    sums = both.new_ones((time, 2, batch, 1))
    both[0].mul_(torch.stack([start + floor, end])[:, None])
    matrices = torch.stack([moves, moves.t()])
    floors = both.new_tensor([[[floor]], [[0.0]]]).expand(both.shape[1:])
    steps, norms = both.unbind(0), sums.unbind(0)
    moved = torch.empty_like(steps[0])
    for t in range(time):
        if t > 0:
            if floor:
                torch.baddbmm(floors, steps[t - 1], matrices, out=moved)
            else:
                torch.bmm(steps[t - 1], matrices, out=moved)
            steps[t].mul_(moved)
        if t % apart == 0:
            torch.sum(steps[t], 2, True, out=norms[t])
            steps[t].div_(norms[t])
    return both[:, 0], both[:, 1], sums[:, :, :, 0].transpose(1, 2)

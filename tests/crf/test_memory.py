"""Memory grows with batch · time · tags: never with batch · time · tags²."""

import keras
import numpy as np
import pytest

from finegrain.crf import LinearChain

BATCH, TIME, TAGS = 8, 64, 48


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="XLA tells what it allocates")
def test_of_a_training_step():
    """Besides arguments and results a step holds a few tensors of the emissions' size."""
    import jax

    def loss(emissions, transitions, tags, mask):
        return -LinearChain(emissions, transitions, mask=mask).log_prob(tags).sum()

    emissions = np.zeros((BATCH, TIME, TAGS), "float32")
    step = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(
        emissions,
        np.zeros((TAGS, TAGS), "float32"),
        np.zeros((BATCH, TIME), "int32"),
        np.ones((BATCH, TIME), bool),
    )
    held = step.compile().memory_analysis().temp_size_in_bytes
    assert held < 20 * emissions.nbytes < BATCH * TIME * TAGS**2 * 4


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="PyTorch tells what it allocates")
def test_of_an_eager_training_step():
    """At no time are more than a few tensors of the emissions' size alive."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    emissions = torch.zeros((BATCH, TIME, TAGS), requires_grad=True)
    transitions = torch.zeros((TAGS, TAGS), requires_grad=True)
    tags = torch.zeros((BATCH, TIME), dtype=torch.int32)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        LinearChain(emissions, transitions).log_prob(tags).sum().backward()
    live = peak = 0
    for event in measured.events():
        live += event.self_cpu_memory_usage
        peak = max(peak, live)
    size = emissions.numel() * 4
    assert 0 < peak < 20 * size < BATCH * TIME * TAGS**2 * 4

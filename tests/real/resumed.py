"""Whether a run that was resumed came to what the uninterrupted one came to."""

from collections.abc import Mapping

import numpy as np

from real.terminal import BACKEND


def assert_same(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], rate: float
) -> None:
    """To the bit on torch; elsewhere to what two compilations of one program may differ by.

    Compilers round in an order of their own, and what they keep on disk need not be what they
    made at first. Adam turns such noise into a small part of a step; a slot that was lost changes
    each step by about its size, which is `rate`.
    """
    assert set(found) == set(expected)
    for name, values in expected.items():
        if BACKEND == "torch":
            np.testing.assert_array_equal(found[name], values, err_msg=name)
        elif name.startswith("weight "):
            np.testing.assert_allclose(found[name], values, rtol=0, atol=rate / 10, err_msg=name)
        else:
            np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-3, err_msg=name)

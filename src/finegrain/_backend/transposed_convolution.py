"""A transposed convolution on JAX whose gradients are those of the strided convolution.

XLA computes the kernel's gradient of a convolution with a dilated input, as JAX derives it, more
than ten times as slowly on a CPU as the one of a strided convolution. Both are the same number:
with the strided convolution S from the large images y to the small ones x, its transpose T and the
gradient K of its kernel k, there is one form, linear in each of three,

    ⟨S(y, k), x⟩ = ⟨y, T(x, k)⟩ = ⟨k, K(y, x)⟩,

so that each of S, T and K has the two others for its gradients, again and again.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
from jax import lax

Tensor = Any


class Geometry(NamedTuple):
    """What S, T and K do beside their arguments; one entry for each axis of space."""

    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed_padding: tuple[tuple[int, int], ...]
    """At both ends of the small images, stretched by the strides."""
    strided_padding: tuple[tuple[int, int], ...]
    """At both ends of the large images."""
    dimensions: tuple[str, str, str]


def geometry(
    size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    strides: tuple[int, ...],
    padding: str,
    output_padding: tuple[int, ...] | None,
    dilation: tuple[int, ...],
    data_format: str,
) -> Geometry:
    """Compute the paddings of Keras's transposed convolution, and of the strided one.

    Args:
        size: That of the small images, without batch and channels.
        kernel_size: That of the kernel.
        strides: Of the strided convolution.
        padding: `"valid"` or `"same"`.
        output_padding: What is added at the end of the large images; `None` for Keras's choice.
        dilation: Of the kernel.
        data_format: `"channels_last"` or `"channels_first"`.
    """
    transposed, strided = [], []
    for i, (small, kernel, stride) in enumerate(zip(size, kernel_size, strides, strict=True)):
        reach = (kernel - 1) * dilation[i] + 1
        added = None if output_padding is None else output_padding[i]
        if padding == "valid":
            before = reach - 1
            after = before + (max(stride - reach, 0) if added is None else added)
        else:
            if added is None:  # the large images are `stride` times as large
                total = stride + reach - 2
            else:
                total = reach + reach % 2 - 2 + added
            before = min((total + 1) // 2, reach - 1)
            after = total - before
        transposed.append((before, after))
        large = (small - 1) * stride + before + after + 2 - reach
        cut = reach - 1 - before
        strided.append((cut, (small - 1) * stride + reach - large - cut))
    space = "HWD"[: len(size)]
    images = f"N{space}C" if data_format == "channels_last" else f"NC{space}"
    return Geometry(
        tuple(strides),
        tuple(dilation),
        tuple(transposed),
        tuple(strided),
        (images, f"{space}IO", images),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def transposed(x: Tensor, kernel: Tensor, how: Geometry) -> Tensor:
    """Compute T: from small images and a kernel, (…, outputs, inputs), to large images."""
    return lax.conv_transpose(
        x,
        kernel,
        how.strides,
        how.transposed_padding,
        rhs_dilation=how.dilation,
        dimension_numbers=how.dimensions,
        transpose_kernel=True,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def strided(y: Tensor, kernel: Tensor, how: Geometry) -> Tensor:
    """Compute S: from large images and the kernel to small images."""
    return _strided(y, kernel, how)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def kernel_gradient(y: Tensor, x: Tensor, how: Geometry) -> Tensor:
    """Compute K: from large and small images to the like of the kernel."""
    channels = how.dimensions[0].index("C")
    size = [
        (large + before + after - 1 - (small - 1) * stride) // dilation + 1
        for large, small, (before, after), stride, dilation in zip(
            _space(y, how),
            _space(x, how),
            how.strided_padding,
            how.strides,
            how.dilation,
            strict=True,
        )
    ]
    shape = jax.ShapeDtypeStruct((*size, y.shape[channels], x.shape[channels]), y.dtype)
    (gradient,) = jax.linear_transpose(lambda kernel: _strided(y, kernel, how), shape)(x)
    return gradient


def _strided(y: Tensor, kernel: Tensor, how: Geometry) -> Tensor:
    return lax.conv_general_dilated(
        y,
        kernel,
        how.strides,
        how.strided_padding,
        rhs_dilation=how.dilation,
        dimension_numbers=how.dimensions,
    )


def _space(images: Tensor, how: Geometry) -> list[int]:
    return [
        size for size, axis in zip(images.shape, how.dimensions[0], strict=True) if axis in "HWD"
    ]


def _keep(one: Tensor, other: Tensor, how: Geometry, function: Any) -> Any:
    return function(one, other, how), (one, other)


def _of_transposed(how: Geometry, kept: tuple[Tensor, Tensor], slope: Tensor) -> Any:
    x, kernel = kept
    return strided(slope, kernel, how), kernel_gradient(slope, x, how)


def _of_strided(how: Geometry, kept: tuple[Tensor, Tensor], slope: Tensor) -> Any:
    y, kernel = kept
    return transposed(slope, kernel, how), kernel_gradient(y, slope, how)


def _of_kernel_gradient(how: Geometry, kept: tuple[Tensor, Tensor], slope: Tensor) -> Any:
    y, x = kept
    return transposed(x, slope, how), strided(y, slope, how)


transposed.defvjp(functools.partial(_keep, function=transposed), _of_transposed)
strided.defvjp(functools.partial(_keep, function=strided), _of_strided)
kernel_gradient.defvjp(functools.partial(_keep, function=kernel_gradient), _of_kernel_gradient)

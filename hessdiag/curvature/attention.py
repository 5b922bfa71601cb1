"""Attention composed of layers, matrix products and softmax, for modes with rules for these."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute ``F.scaled_dot_product_attention``.

    Its arguments have the names that it gives them.
    """
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3], query.shape[-3] // value.shape[-3]
        key = key.repeat_interleave(groups[0], -3)
        value = value.repeat_interleave(groups[1], -3)
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.mT
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    return F.dropout(_weights(scores, attn_mask), dropout_p) @ value


def _weights(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Compute the softmax of masked scores, 0 where a row sees nothing."""
    if mask is None:
        return scores.softmax(-1)
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, -math.inf)
    blind = (mask == -math.inf).all(-1, keepdim=True)
    if not blind.any():
        return (scores + mask).softmax(-1)
    weights = (scores + mask.masked_fill(blind, 0.0)).softmax(-1)
    return weights * (~blind).to(weights.dtype)


def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None] | None:
    """Compute ``F.multi_head_attention_forward``, examples first; None for its rare options.

    Its arguments have the names that it gives them.
    """
    rare = (bias_k, bias_v, static_k, static_v)
    if query.ndim != 3 or add_zero_attn or any(of is not None for of in rare):
        return None
    is_own = query is key and key is value
    query, key, value = (of.transpose(0, 1) for of in (query, key, value))
    if is_own and in_proj_weight is not None:
        packed = F.linear(query, in_proj_weight, in_proj_bias).chunk(3, -1)
    else:
        weights = q_proj_weight, k_proj_weight, v_proj_weight
        if not use_separate_proj_weight:
            assert in_proj_weight is not None
            weights = in_proj_weight.chunk(3)
        biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
        inputs = query, key, value
        packed = tuple(map(F.linear, inputs, weights, biases))  # pyright: ignore[reportArgumentType]
    num, length, width = packed[0].shape
    heads = [of.unflatten(-1, (num_heads, -1)).transpose(1, 2) for of in packed]
    if is_causal and key_padding_mask is None and not need_weights:
        shape = length, heads[1].shape[2]
        attn_mask = torch.ones(shape, dtype=torch.bool, device=query.device).tril().logical_not()
    mask = _added(attn_mask, query.dtype)
    if mask is not None and mask.ndim == 3:
        mask = mask.view(num, num_heads, *mask.shape[1:])
    if key_padding_mask is not None:
        padding = _added(key_padding_mask, query.dtype)
        assert padding is not None
        mask = padding[:, None, None] if mask is None else mask + padding[:, None, None]
    scores = (heads[0] * (width // num_heads) ** -0.5) @ heads[1].mT
    shares = F.dropout(_weights(scores, mask), dropout_p if training else 0.0)
    seen = (shares @ heads[2]).transpose(1, 2).flatten(2)
    result = F.linear(seen, out_proj_weight, out_proj_bias).transpose(0, 1)
    if not need_weights:
        return result, None
    return result, shares.mean(1) if average_attn_weights else shares


def _added(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Turn a mask that says where not to look into one that is added to scores."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)


COMPOSED: dict[str, Callable[..., Any]] = {
    "scaled_dot_product_attention": attention,
    "multi_head_attention_forward": multi_head_attention,
}

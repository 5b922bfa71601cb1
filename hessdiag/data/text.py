"""Text as examples for language models: blocks of tokens by the checkpoint's own tokenizer."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hessdiag import files, seeds
from hessdiag.data import preparation
from hessdiag.data.examples import Examples
from hessdiag.data.sources import expanded, reason
from hessdiag.errors import InputError
from hessdiag.metadata import TextForm

PREFIX = "text:"
_BLOCK = 128  # tokens of an example, or fewer where the network takes no more
_MASKED = 0.15  # share of the tokens that a masked language model is asked for


def load(spec: str, split: str, form: TextForm | None, wanted: int | None, seed: int) -> Examples:
    """Read ``text:FILE`` as blocks of tokens, of which a random subset is taken.

    A causal model is asked for every next token of a block; a masked one for 15 % of the tokens,
    chosen at random by the seed, each replaced by the mask.

    Args:
        spec: ``text:FILE``, the file in UTF-8.
        split: named in reports; the file is one set.
        form: tokenizer and head of the network.
        wanted: number of blocks; None for up to 512.
        seed: of the subset and of the masks.

    Returns:
        Mappings of ``input_ids``, ``attention_mask`` and ``labels``, int64 (n, tokens).

    Raises:
        InputError: no tokenizer, no language model, a file that cannot be read, or fewer blocks
            than wanted.
    """
    if form is None:
        raise InputError(
            "text needs a tokenizer",
            got=f"--data {spec} and a checkpoint that has none",
            hint="name a folder of Hugging Face with its tokenizer as the checkpoint",
        )
    if form.head is None:
        raise InputError(
            "text is for causal and masked language models",
            got=f"the network of {form.folder}",
            hint="give its data by --data package.module:factory",
        )
    path = expanded(spec.removeprefix(PREFIX))
    try:
        content = files.read_text(path)
    except (OSError, ValueError) as error:
        got = getattr(error, "strerror", None) or error
        raise InputError(f"the text {path} cannot be read", got=got) from error
    tokenizer = _tokenizer(form)
    ids = _tokens(tokenizer, content, form)
    length = min(_BLOCK, form.longest or _BLOCK, max(len(ids), 1))
    if len(ids) < 2:
        raise InputError(f"the text {path} is too short", got=f"{len(ids)} tokens", wanted="2")
    blocks = ids[: len(ids) // length * length].view(-1, length)
    at_most = min(preparation.AT_MOST, len(blocks))
    blocks = blocks[preparation.select(len(blocks), at_most if wanted is None else wanted, seed)]
    batch = {"input_ids": blocks, "attention_mask": torch.ones_like(blocks), "labels": blocks}
    if form.head == "masked":
        batch |= _masked(blocks, tokenizer, seed)
    return Examples(spec, split, (batch,))


def _tokens(tokenizer: Any, content: str, form: TextForm) -> Tensor:
    try:
        return torch.tensor(tokenizer(content, add_special_tokens=False)["input_ids"])
    except Exception as error:  # its files may say anything
        raise InputError(f"the tokenizer of {form.folder} fails", got=reason(error)) from error


def _masked(blocks: Tensor, tokenizer: Any, seed: int) -> dict[str, Tensor]:
    """Replace a share of the tokens by the mask, at least one a block, and ask for those."""
    if tokenizer.mask_token_id is None:
        raise InputError("the tokenizer has no mask", hint="a masked language model needs one")
    generator = torch.Generator().manual_seed(seeds.stream(seed, "mask"))
    ranks = torch.rand(blocks.shape, generator=generator).argsort(1)
    chosen = ranks < max(round(_MASKED * blocks.shape[1]), 1)
    return {
        "input_ids": blocks.masked_fill(chosen, tokenizer.mask_token_id),
        "labels": blocks.masked_fill(~chosen, preparation.IGNORED),
    }


def _tokenizer(form: TextForm) -> Any:
    try:
        transformers: Any = importlib.import_module("transformers")
        return transformers.AutoTokenizer.from_pretrained(
            Path(form.folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the library may raise anything
        raise InputError(
            f"the tokenizer of {form.folder} cannot be loaded",
            got=reason(error),
            hint="save it there: tokenizer.save_pretrained(folder)",
        ) from error

"""Files as other libraries write them, made small and on the spot by the libraries themselves."""

import json
import warnings
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

WORDS = ("[UNK]", "[PAD]", "[MASK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(90)))
CAUSAL = {
    "vocab_size": len(WORDS),
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 16,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
MASKED = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
    "pad_token_id": 1,
}
FACTORIES = """
import lightning, torch, torchmetrics
from torch import nn
from torch.utils.data import DataLoader

def rows():
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        length = int(torch.randint(3, 12, (), generator=generator))
        ids = torch.randint(5, 95, (length,), generator=generator)
        yield ids, torch.full((length,), -100).index_put((torch.tensor([1]),), ids[1])

def together(rows):
    def padded(tensors, value):
        return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
    ids, labels = zip(*rows)
    mask = padded([torch.ones_like(one) for one in ids], 0)
    return {"input_ids": padded(ids, 1), "attention_mask": mask, "labels": padded(labels, -100)}

def loader():
    return DataLoader(list(rows()), batch_size=5, collate_fn=together)

def points():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(20, 4, generator=generator), torch.arange(20) % 3

def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)), torch.arange(2)

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3))

class Lit(lightning.LightningModule):
    def __init__(self, width, lr=0.1):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(4, width), nn.GELU(), nn.Linear(width, 3))
        self.confusion = torchmetrics.classification.MulticlassConfusionMatrix(3)
        self.confusion.persistent(True)
    def forward(self, x):
        return self.net(x)
    def training_step(self, batch, index):
        x, y = batch
        z = self(x)
        self.confusion(z, y)
        return nn.functional.cross_entropy(z, y)
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.hparams.lr)
"""
"""A module of the user's own: data, networks, a LightningModule with a metric."""


def quietly(act: Any) -> Any:
    """Call it with the libraries' warnings off."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return act()


def tokenizer(folder: Path) -> Any:
    """Write a tokenizer of words."""

    def act() -> Any:
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        words = models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
        plain = Tokenizer(words)
        plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
        made = PreTrainedTokenizerFast(tokenizer_object=plain, **special)
        made.save_pretrained(folder)
        return made

    return quietly(act)


def language_model(folder: Path, *, masked: bool = False, dtype: Any = None) -> nn.Module:
    """Write a small GPT-2 in shards, or a BERT, with its tokenizer."""

    def act() -> Any:
        import transformers

        torch.manual_seed(0)
        if masked:
            model: Any = transformers.BertForMaskedLM(transformers.BertConfig(**MASKED))
        else:
            model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**CAUSAL))
        model.to(dtype or torch.float32)
        model.save_pretrained(folder, max_shard_size="1MB" if masked else "8KB")
        return model.eval()

    model = quietly(act)
    tokenizer(folder)
    return model


def adapter(folder: Path, base: Path) -> nn.Module:
    """Write a LoRA adapter for the causal model in ``base``."""

    def act() -> Any:
        import peft
        import transformers

        torch.manual_seed(1)
        config = peft.LoraConfig(
            r=2,
            target_modules=["c_attn"],
            task_type="CAUSAL_LM",
            fan_in_fan_out=True,
            init_lora_weights=False,
        )
        model = transformers.GPT2LMHeadModel.from_pretrained(base, local_files_only=True)
        adapted = peft.get_peft_model(model, config)
        adapted.save_pretrained(folder)
        return adapted.eval()

    return quietly(act)


def lightning_checkpoint(path: Path, factories: Any) -> nn.Module:
    """Train the LightningModule for an epoch, and write what its trainer writes."""

    def act() -> Any:
        import lightning

        data = torch.utils.data.TensorDataset(*factories.points())
        module = factories.Lit(5)
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            default_root_dir=path.parent,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=5))
        trainer.save_checkpoint(path)
        return module.eval()

    return quietly(act)


def timm_checkpoint(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Write what timm's training script writes, with the average of the weights."""

    def act() -> Any:
        import timm
        from timm.utils import CheckpointSaver, ModelEmaV3

        torch.manual_seed(0)
        model = timm.create_model("test_efficientnet", num_classes=10)
        average = ModelEmaV3(model)
        for parameter in average.module.parameters():
            parameter.data.mul_(1.01)
        folder.mkdir()
        saver = CheckpointSaver(
            model,
            torch.optim.SGD(model.parameters(), 0.1),
            args=Namespace(model="test_efficientnet", lr=0.1),
            model_ema=average,
            checkpoint_dir=folder,
            recovery_dir=folder,
        )
        saver.save_checkpoint(0, 0.5)
        return {"live": model.state_dict(), "average": average.module.state_dict()}

    return quietly(act)


def spectrum(run: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """Report on one of these by the command line, fast."""
    fast = ("--num-probes", 2, "--top-k", 1, "--no-density", "--quiet", "--json", "-")
    outcome = run("spectrum", *args, *fast)
    assert outcome.code == 0, outcome.err
    report = json.loads(outcome.out)
    assert set(report["parts"]) == {"hessian", "gn", "nme"}
    return report

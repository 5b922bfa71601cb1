"""Networks as people have them, made small: one line each.

Every name is also a factory, ``tests.networks.table:NAME``, and ``NAME__data`` the factory of its
batch, so that the command line takes the same ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.networks import own

Build = Callable[[], nn.Module]


@dataclass(frozen=True)
class Row:
    """A network, a batch of two to six examples, and its loss as its user writes it.

    Attributes:
        library: whose network it is.
        build: makes it, with random weights.
        batch: makes (inputs, targets) or a mapping.
        loss: its name for hessdiag; None for the network's own.
        user_loss: the mean loss of what the network returns and the targets; None for the
            ``loss`` that a network of Hugging Face returns.
        output: which output counts.
        in_suite: stands for its family in the daily suite.
        refused: words of the refusal, where one is right.
    """

    library: str
    build: Build
    batch: Callable[[], Any]
    loss: str | None = None
    user_loss: Callable[[Any, Tensor], Tensor] | None = None
    output: str | int | None = None
    in_suite: bool = False
    refused: str | None = None


def network(name: str) -> nn.Module:
    """Build a row's network in float64, every weight and statistic moved off its special value."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = ROWS[name].build().double().eval()
        for parameter in model.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
        for key, buffer in model.named_buffers():
            if key.endswith("running_mean"):
                buffer += 0.1 * torch.randn_like(buffer)
            if key.endswith("running_var"):
                buffer *= 0.5 + torch.rand_like(buffer)
    return model


def batch(name: str) -> Any:
    """Make a row's batch, floating inputs in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return _doubled(ROWS[name].batch())


def __getattr__(name: str) -> Any:
    if name.removesuffix("__data") not in ROWS:
        raise AttributeError(name)
    if name.endswith("__data"):
        return lambda: [batch(name.removesuffix("__data"))]
    return lambda: network(name)


def _doubled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _doubled(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(map(_doubled, value))
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


# --- batches -----------------------------------------------------------------------------------


def images(size: int = 32, channels: int = 3, classes: int = 4) -> Callable[[], Any]:
    return lambda: (torch.randn(2, channels, size, size), torch.randint(classes, (2,)))


def maps(size: int = 32, classes: int = 3) -> Callable[[], Any]:
    def make() -> Any:
        labels = torch.randint(classes, (2, size, size))
        labels[0, :2] = -100
        return torch.randn(2, 3, size, size), labels

    return make


def pixels(size: int = 16, key: str = "labels", **more: Any) -> Callable[[], Any]:
    def make() -> Any:
        labels = torch.randint(3, (2,))
        return {"pixel_values": torch.randn(2, 3, size, size), key: labels, **more}

    return make


def tokens(labels: str = "class", length: int = 6, vocabulary: int = 40) -> Callable[[], Any]:
    def make() -> Any:
        ids = torch.randint(5, vocabulary, (3, length))
        mask = torch.ones_like(ids)
        mask[0, -2:] = 0
        y: dict[str, Callable[[], Tensor]] = {
            "class": lambda: torch.randint(3, (3,)),
            "number": lambda: torch.randn(3),
            "several": lambda: torch.rand(3, 3).round(),
            "each": lambda: torch.randint(3, (3, length)).where(mask > 0, -100),
            "same": lambda: ids.where(mask > 0, -100),
            "some": lambda: ids.where(torch.arange(length) % 3 == 1, -100),
            "other": lambda: torch.randint(5, vocabulary, (3, 5)),
        }
        return {"input_ids": ids, "attention_mask": mask, "labels": y[labels]()}

    return make


def vectors(width: int = 4, classes: int = 3) -> Callable[[], Any]:
    return lambda: (torch.randn(6, width), torch.randint(classes, (6,)))


def numbers(width: int = 4, outputs: int = 2) -> Callable[[], Any]:
    return lambda: (torch.randn(6, width), torch.randn(6, outputs))


def sequences(width: int = 4, classes: int = 3) -> Callable[[], Any]:
    return lambda: (torch.randn(5, 7, width), torch.randint(classes, (5,)))


# --- libraries ---------------------------------------------------------------------------------

SMALL = {
    "vocab_size": 40,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
}
PATCHES = {**SMALL, "image_size": 16, "patch_size": 8}
DECODER = {**SMALL, "num_key_value_heads": 1, "head_dim": 4, "pad_token_id": 0}


def hf(
    model: str,
    config: str,
    options: dict[str, Any],
    batch: Callable[[], Any],
    *,
    in_suite: bool = False,
    refused: str | None = None,
    **more: Any,
) -> Row:
    """A network of transformers under its own loss."""

    def build() -> nn.Module:
        import transformers

        made: Any = getattr(transformers, config)(**{**options, **more})
        made._attn_implementation = "eager" if refused is None else None
        return getattr(transformers, model)(made)

    return Row("transformers", build, batch, in_suite=in_suite, refused=refused)


def timm(name: str, *, size: int = 32, in_suite: bool = False, **options: Any) -> Row:
    """An image classifier of timm, by its name or its class in ``timm.models``."""

    def build() -> nn.Module:
        import timm as library

        if "." not in name:
            return library.create_model(name, num_classes=4, **options)
        return attrgetter(name)(library.models)(num_classes=4, **options)

    return Row("timm", build, images(size), user_loss=F.cross_entropy, in_suite=in_suite)


def tv(name: str, *, size: int = 32, in_suite: bool = False, **options: Any) -> Row:
    """An image classifier of torchvision, by its name or its class."""

    def build() -> nn.Module:
        from torchvision import models

        if name[0].isupper():
            return getattr(models, name)(num_classes=4, **options)
        return models.get_model(name, weights=None, num_classes=4, **options)

    return Row("torchvision", build, images(size), user_loss=F.cross_entropy, in_suite=in_suite)


def segmentation(name: str) -> Row:
    """A segmentation network of torchvision, which returns a mapping."""

    def build() -> nn.Module:
        from torchvision import models

        return models.get_model(name, weights=None, weights_backbone=None, num_classes=3)

    return Row(
        "torchvision",
        build,
        maps(),
        user_loss=lambda result, y: F.cross_entropy(result["out"], y),
        output="out",
    )


def peft(kind: str, *, in_suite: bool = False, refused: str | None = None, **options: Any) -> Row:
    """An adapter of PEFT on a small GPT-2."""

    def build() -> nn.Module:
        import peft as library
        import transformers

        base = transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2))
        config = getattr(library, kind)(task_type="CAUSAL_LM", **options)
        model = library.get_peft_model(base, config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        return model

    return Row("peft", build, tokens("same"), in_suite=in_suite, refused=refused)


def plain(
    build: Build,
    batch: Callable[[], Any],
    loss: str = "cross-entropy",
    user_loss: Callable[[Any, Tensor], Tensor] = F.cross_entropy,
    **options: Any,
) -> Row:
    """A network of torch's own modules."""
    return Row("torch", build, batch, loss, user_loss, **options)


GPT2 = {"vocab_size": 40, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 16}
T5 = {
    "vocab_size": 40, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2,
    "decoder_start_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
BART = {
    "vocab_size": 40, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 12,
    "decoder_ffn_dim": 12, "max_position_embeddings": 16,
}  # fmt: skip
WHISPER = {
    **BART, "num_mel_bins": 8, "max_source_positions": 10, "max_target_positions": 16,
    "pad_token_id": 0, "decoder_start_token_id": 1, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip
MSE = ("mse", F.mse_loss)

ROWS: dict[str, Row] = {
    # transformers
    "bert_classification": hf(
        "BertForSequenceClassification", "BertConfig", SMALL, tokens(), num_labels=3, in_suite=True
    ),
    "bert_regression": hf(
        "BertForSequenceClassification", "BertConfig", SMALL, tokens("number"), num_labels=1
    ),
    "bert_many_labels": hf(
        "BertForSequenceClassification", "BertConfig", SMALL, tokens("several"), num_labels=3
    ),
    "bert_masked": hf("BertForMaskedLM", "BertConfig", SMALL, tokens("some"), in_suite=True),
    "bert_tokens": hf(
        "BertForTokenClassification", "BertConfig", SMALL, tokens("each"), num_labels=3
    ),
    "gpt2_causal": hf("GPT2LMHeadModel", "GPT2Config", GPT2, tokens("same"), in_suite=True),
    "t5": hf("T5ForConditionalGeneration", "T5Config", T5, tokens("other"), in_suite=True),
    "t5_gated": hf(
        "T5ForConditionalGeneration", "T5Config", T5, tokens("other"),
        feed_forward_proj="gated-gelu",
    ),
    "bart": hf("BartForConditionalGeneration", "BartConfig", BART, tokens("other")),
    "vit": hf("ViTForImageClassification", "ViTConfig", PATCHES, pixels(), num_labels=3),
    "llama": hf("LlamaForCausalLM", "LlamaConfig", DECODER, tokens("same"), in_suite=True),
    "mistral": hf("MistralForCausalLM", "MistralConfig", DECODER, tokens("same")),
    "qwen3": hf("Qwen3ForCausalLM", "Qwen3Config", DECODER, tokens("same")),
    "gemma": hf("GemmaForCausalLM", "GemmaConfig", DECODER, tokens("same")),
    "phi": hf("PhiForCausalLM", "PhiConfig", SMALL, tokens("same"), pad_token_id=0),
    "gpt_neox": hf("GPTNeoXForCausalLM", "GPTNeoXConfig", SMALL, tokens("same")),
    "bloom": hf(
        "BloomForCausalLM", "BloomConfig", {"vocab_size": 40, "hidden_size": 8, "n_layer": 2,
        "n_head": 2}, tokens("same"),
    ),
    "opt": hf(
        "OPTForCausalLM", "OPTConfig", SMALL, tokens("same"), ffn_dim=12, word_embed_proj_dim=8
    ),
    "mamba": hf(
        "MambaForCausalLM", "MambaConfig", {"vocab_size": 40, "hidden_size": 8, "state_size": 4,
        "num_hidden_layers": 2}, tokens("same"),
    ),
    "distilbert": hf(
        "DistilBertForSequenceClassification", "DistilBertConfig", {"vocab_size": 40, "dim": 8,
        "n_layers": 2, "n_heads": 2, "hidden_dim": 12}, tokens(), num_labels=3,
    ),
    "roberta": hf(
        "RobertaForSequenceClassification", "RobertaConfig", SMALL, tokens(), num_labels=3
    ),
    "albert": hf(
        "AlbertForSequenceClassification", "AlbertConfig", SMALL, tokens(), num_labels=3,
        embedding_size=6,
    ),
    "electra": hf(
        "ElectraForSequenceClassification", "ElectraConfig", SMALL, tokens(), num_labels=3,
        embedding_size=6,
    ),
    "deberta": hf(
        "DebertaV2ForSequenceClassification", "DebertaV2Config", SMALL, tokens(), num_labels=3,
        relative_attention=True, pos_att_type=["c2p", "p2c"],
    ),
    "swin_hf": hf(
        "SwinForImageClassification", "SwinConfig", {"image_size": 16, "patch_size": 2,
        "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2}, pixels(),
        num_labels=3,
    ),
    "segformer": hf(
        "SegformerForSemanticSegmentation", "SegformerConfig", {"hidden_sizes": [8, 8, 8, 8],
        "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 8},
        lambda: {
            "pixel_values": torch.randn(2, 3, 32, 32), "labels": torch.randint(3, (2, 32, 32))
        },
        num_labels=3, refused="do not fit",
    ),
    "whisper": hf(
        "WhisperForConditionalGeneration", "WhisperConfig", WHISPER,
        lambda: {"input_features": torch.randn(2, 8, 20), "labels": torch.randint(5, 40, (2, 5))},
    ),
    # timm
    "convnext": timm("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), in_suite=True),
    "mobilenetv3_timm": timm("mobilenetv3_small_050"),
    "efficientnet_timm": timm("test_efficientnet", in_suite=True),
    "mixer": timm(
        "mlp_mixer.MlpMixer", img_size=32, patch_size=8, num_blocks=2, embed_dim=16, in_suite=True
    ),
    "deit": timm(
        "deit.VisionTransformerDistilled", img_size=32, patch_size=8, embed_dim=16, depth=2,
        num_heads=2,
    ),
    "vit_timm": timm("test_vit", img_size=32),
    "swin": timm(
        "swin_tiny_patch4_window7_224", img_size=32, patch_size=2, window_size=4, embed_dim=8,
        depths=(1, 1), num_heads=(2, 2),
    ),
    "resmlp": timm("gmlp_s16_224", img_size=32),
    "resnet_timm": timm("test_resnet"),
    "byobnet": timm("test_byobnet"),
    "regnet": timm("regnetx_002", in_suite=False),
    "nfnet": timm("test_nfnet"),
    "convmixer": timm("convmixer.ConvMixer", dim=8, depth=2),
    "ghostnet": timm("ghostnet_050"),
    "edgenext": timm("edgenext_xx_small", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)),
    # torchvision
    "mobilenet_v3": tv("mobilenet_v3_small", in_suite=True),
    "mobilenet_v2": tv("mobilenet_v2", width_mult=0.1),
    "resnet18": tv("resnet18", in_suite=True),
    "densenet": tv("DenseNet", growth_rate=4, block_config=(1, 2, 1, 1), num_init_features=8),
    "googlenet": tv("googlenet", aux_logits=False, init_weights=False, size=48),
    "googlenet_aux": tv("googlenet", aux_logits=True, init_weights=False, size=48),
    "inception": tv("inception_v3", aux_logits=False, init_weights=False, size=80),
    "shufflenet": tv("shufflenet_v2_x0_5"),
    "squeezenet": tv("squeezenet1_1", size=48),
    "mnasnet": tv("mnasnet0_5"),
    "efficientnet": tv("efficientnet_b0"),
    "fcn": segmentation("fcn_resnet50"),
    "deeplab": segmentation("deeplabv3_mobilenet_v3_large"),
    "lraspp": segmentation("lraspp_mobilenet_v3_large"),
    # torch: recurrent, graphs, regression, contrastive, physics, …
    "lstm": plain(lambda: own.Recurrent(nn.LSTM), sequences(), in_suite=True),
    "lstm_two_ways": plain(
        lambda: own.Recurrent(nn.LSTM, num_layers=2, bidirectional=True), sequences()
    ),
    "gru": plain(lambda: own.Recurrent(nn.GRU), sequences()),
    "rnn": plain(lambda: own.Recurrent(nn.RNN), sequences()),
    "rnn_relu": plain(lambda: own.Recurrent(nn.RNN, nonlinearity="relu"), sequences()),
    "lstm_packed": plain(lambda: own.Packed(), own.packed_batch),
    "lstm_projected": plain(lambda: own.Recurrent(nn.LSTM, proj_size=3), sequences()),
    "graph": plain(own.Graph, own.graph_batch, in_suite=True),
    "graph_attention": plain(own.GraphAttention, own.graph_batch),
    "regression": plain(own.regression, numbers(), *MSE, in_suite=True),
    "huber": plain(own.regression, numbers(), "huber", F.huber_loss),
    "poisson": plain(own.regression, lambda: (torch.randn(6, 4), torch.rand(6, 2).mul(4).round()),
                     "poisson", F.poisson_nll_loss),
    "autoencoder": plain(own.autoencoder, lambda: (x := torch.randn(6, 4), x), *MSE),
    "contrastive": plain(
        own.TwoTowers, own.pairs, "tests.networks.own:info_nce_rows", own.info_nce, in_suite=True
    ),
    "pinn": plain(own.Physics, own.points, *MSE, in_suite=True),
    "deep_sets": plain(own.DeepSets, sequences()),
    "transformer": plain(own.Encoder, sequences(), in_suite=True),
    "siren": plain(own.siren, numbers(2, 1), *MSE),
    "unet": plain(own.unet, maps(16), in_suite=True),
    "mixture_of_experts": plain(own.Experts, vectors()),
    "spectral_norm": plain(own.spectral, vectors()),
    "orthogonal": plain(own.orthogonal, vectors()),
    "weight_norm": plain(own.weight_normed, vectors(), in_suite=True),
    "spectral_norm_old": plain(own.spectral_old, vectors()),
    "own_parametrization": plain(own.symmetric, vectors()),
    "tied_twice": plain(own.Tied, lambda: (torch.randint(7, (4, 5)), torch.randint(7, (4, 5))),
                        user_loss=lambda z, y: F.cross_entropy(z.flatten(0, 1), y.flatten())),
    "embedding_bag": plain(own.bag, lambda: (torch.randint(9, (6, 4)), torch.randint(3, (6,)))),
    "hypernetwork": plain(own.Hyper, vectors()),
    "ode": plain(own.Ode, vectors()),
    "attention_qa": plain(own.MultiTask, vectors(), output="classes",
                          user_loss=lambda r, y: F.cross_entropy(r["classes"], y)),
    "bce": plain(own.one_logit, lambda: (torch.randn(6, 4), torch.rand(6).round()), "bce",
                 lambda z, y: F.binary_cross_entropy_with_logits(z[:, 0], y)),
    # adapters
    "lora": peft("LoraConfig", r=2, target_modules=["c_attn"], fan_in_fan_out=True, in_suite=True),
    "dora": peft(  # takes the norm of its weights for a constant: its gradient is none of a loss
        "LoraConfig", r=2, use_dora=True, target_modules=["c_attn"], fan_in_fan_out=True,
        refused="second derivatives are not those of its gradient",
    ),
    "ia3": peft(
        "IA3Config", target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"],
        fan_in_fan_out=True,
    ),
    "prefix_tuning": peft("PrefixTuningConfig", num_virtual_tokens=2),
    "prompt_tuning": peft(
        "PromptTuningConfig", num_virtual_tokens=2, refused="do not fit the outputs"
    ),
}  # fmt: skip

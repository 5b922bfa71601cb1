"""A small good file of every format that is read."""

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image

import hessdiag
from hessdiag.comparisons.compare_run import compare_reports
from hessdiag.gates.gate_run import review
from hessdiag.metadata import DataSpec, Metadata, ModelSpec, Provenance
from hessdiag.nets import checkpoints, models
from hessdiag.training import folder, loop, methods
from hessdiag.training.folder import Config
from hessdiag.training.recipes import find
from hessdiag.training.run import Run
from tests import foreign
from tests.cases import BY_NAME
from tests.results import RESULTS
from tests.results import sparsity as looked_at

RECIPE = """
lr = 0.1
epochs = 3
model = "mlp-4"
activation = "beta_gelu"
beta = 2.0
data = "digits"
augmentation = ["flip"]
mean = [0.5]
std = [0.25]
regulariser = "sam"
rho = 0.05
"""
LIMITS = """
[gate]
baseline = "spectrum.json"
confidence = 0.95
max-probes = 64
max-seconds = 10
max = {"hessian.trace" = 120, "nme.lambda_max" = 3.5}
[gate.min]
accuracy = 0.5
[gate.max-increase]
nme.frobenius_norm = "10%"
"""
DRAWN = ("train", "landscape", "blocks", "sweep", "sensing")
IMAGES = ("png", "jpg", "bmp", "tiff", "webp", "ppm")
SPEC = ModelSpec("mlp-4", "gelu", None, 10, (1, 8, 8))


def write(place: Path) -> None:
    """Fill a folder."""
    network = models.build(SPEC)
    weights = network.state_dict()
    metadata = Metadata(SPEC, DataSpec("digits"), "cross-entropy", epoch=1, metrics={"loss": 0.5})
    checkpoints.save(place / "model.safetensors", network, metadata)
    safetensors.torch.save_file(weights, place / "weights.safetensors")
    torch.save({"state_dict": weights}, place / "model.pt")
    torch.save(weights, place / "legacy.pt", _use_new_zipfile_serialization=False)
    _write_foreign(place, weights)
    images = np.arange(20 * 64, dtype=np.uint8).reshape(20, 8, 8)
    labels = np.arange(20) % 10
    np.savez(place / "data.npz", images=images, labels=labels)
    tensors = {"inputs": torch.ones(6, 3), "labels": torch.arange(6)}
    safetensors.torch.save_file(tensors, place / "data.safetensors")
    (place / "corpus.txt").write_text(" ".join(f"w{number % 90}" for number in range(200)))
    pixels = Image.fromarray(np.arange(3 * 64, dtype=np.uint8).reshape(8, 8, 3))
    for suffix in IMAGES:
        folder_of = place / f"images-{suffix}" / "cat"
        folder_of.mkdir(parents=True)
        pixels.save(folder_of / f"0.{suffix}")
    for kind, payload in _reports().items():
        (place / f"{kind}.json").write_text(json.dumps(payload))
    (place / "recipe.toml").write_text(RECIPE)
    (place / "hessdiag.toml").write_text(LIMITS)
    _write_run(place / "run", _reports()["train"]["epochs"])


def _write_foreign(place: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write what Lightning, timm, Hugging Face and PEFT do."""
    told = {"hyper_parameters": {"width": 4}, "hparams_name": "kwargs", "epoch": 1}
    inner = {f"model.{name}": tensor for name, tensor in weights.items()}
    torch.save({"state_dict": inner, **told}, place / "lightning.ckpt")
    (place / "timm").mkdir()
    beside = {"args": Namespace(lr=0.1), "metric": np.float64(0.5), "history": np.ones(3)}
    both = {"state_dict": weights, "state_dict_ema": weights}
    torch.save({**both, **beside}, place / "timm" / "last.pth.tar")
    (place / "plain").mkdir()
    torch.save(weights, place / "plain" / "pytorch_model.bin")
    foreign.language_model(place / "gpt")
    foreign.adapter(place / "adapter", place / "gpt")


def _reports() -> dict[str, dict[str, Any]]:
    model, batches, loss = BY_NAME["mlp-gelu"]
    options: dict[str, Any] = {"num_probes": 4, "top_k": 1, "per_layer": True}
    report = hessdiag.spectrum(model, batches, loss=loss, **options)
    origin = Provenance("model.pt", "c" * 64, SPEC, "digits", "train", "d" * 64, 5)
    spectrum = json.loads(report.of(origin).to_json())
    sparsity = json.loads(looked_at("beta_gelu", 2.0).to_json())
    verdict = review(spectrum, {"max": {"hessian.trace": 1.0}, "min": {"accuracy": 0.5}})
    return {
        "spectrum": spectrum,
        "sparsity": sparsity,
        **{kind: json.loads(RESULTS[kind]().to_json()) for kind in DRAWN},
        "gate": json.loads(verdict.of(origin).on("spectrum.json").to_json()),
        "compare": json.loads(compare_reports(report, report).to_json()),
    }


def _write_run(place: Path, epochs: list[dict[str, Any]]) -> None:
    place.mkdir()
    recipe = replace(find("digits-wrn10-1"), model="mlp-4", epochs=len(epochs), batch_size=16)
    config = Config(replace(recipe, method=methods.SAM()), num_samples=32)
    run = Run(config, *loop.load_data(config), place, torch.device("cpu"))
    run.begin()
    run.advance()
    run.save()
    folder.write_metrics(place, epochs)

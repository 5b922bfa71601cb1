"""Networks of timm and torchvision by name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hessdiag.errors import InputError
from hessdiag.metadata import ModelSpec
from hessdiag.nets import libraries, models

pytestmark = pytest.mark.filterwarnings("ignore")


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        act()
    return str(caught.value)


@pytest.mark.parametrize("name", ["torchvision:mobilenet_v3_small", "timm:test_vit"])
def test_a_network_by_its_name(name: str) -> None:
    model = models.build(ModelSpec(name, num_classes=7))
    assert list(model.state_dict().values())[-1].shape == (7,)
    again = models.build(ModelSpec(name, num_classes=7))
    pairs = zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_arguments_go_to_the_library() -> None:
    model: Any = models.build(ModelSpec("timm:test_vit", arguments=(("in_chans", 1),)))
    assert model.patch_embed.proj.weight.shape[1] == 1


def test_the_classes_of_a_checkpoint_are_seen_under_any_prefix() -> None:
    spec = ModelSpec("timm:test_vit", num_classes=7)
    state = models.build(spec).state_dict()
    own = ModelSpec("timm:test_vit")
    for prefix in ("", "module.", "model.net."):
        assert libraries.num_classes(own, {prefix + n: t for n, t in state.items()}) == 7
    assert libraries.num_classes(own, {"other": torch.zeros(3)}) is None


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> None:
        pytest.fail("it downloads")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    monkeypatch.setattr("torchvision._internally_replaced_utils.load_state_dict_from_url", download)
    asked = (("weights", "DEFAULT"), ("weights_backbone", "DEFAULT"))
    models.build(ModelSpec("torchvision:lraspp_mobilenet_v3_large", arguments=asked))
    models.build(ModelSpec("timm:test_vit", arguments=(("pretrained", True),)))
    assert "unknown network of timm" in refusal(
        lambda: models.build(ModelSpec("timm:hf-hub:someone/net"))
    )


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("timm:resnet17", (), "did you mean"),
        ("torchvision:resnet17", (), "did you mean"),
        ("timm:", (), "unknown network of timm"),
        ("timm:test_vit", (("depht", 3),), "cannot be built"),
        ("transformers:BertModel", (), "known from its checkpoint only"),
        ("mlp-4", (("depth", 3),), "takes no arguments"),
    ],
)
def test_other_names_and_arguments(name: str, arguments: Any, message: str) -> None:
    spec = ModelSpec(name, input_shape=(3,), arguments=arguments)
    assert message in refusal(lambda: models.build(spec))


def test_their_activation_is_their_own() -> None:
    spec = ModelSpec("timm:test_vit", "relu")
    assert "chooses its own activation" in refusal(lambda: models.build(spec))

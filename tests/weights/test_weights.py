# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ast
import os
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from monai.handlers import CheckpointLoader
from monai.networks.nets import BasicUNet, SwinUNETR
from monai.transforms import Compose, Identityd

from hybridmim_components.data import make_dataset
from hybridmim_components.weights import adapt_stem, find_weights, load_pretrained, read_weights, save_weights

RECIPE = {"spacing": (1.5, 1.5, 2.0), "intensity_range": [-57, 164], "volumes": ["ab" * 32]}


def unet(**kwargs) -> BasicUNet:
    return BasicUNet(**{"features": (4, 4, 8, 8, 16, 4), **kwargs})


def test_encoder_and_decoder_move_and_the_output_layer_stays(tmp_path: Path) -> None:
    # equal shapes: only the name says that the output layer is another task's
    source, target = unet(out_channels=2), unet(out_channels=2)
    before = target.final_conv.weight.clone()
    save_weights(tmp_path / "model.pt", source, RECIPE)
    report = load_pretrained(target, tmp_path / "model.pt")
    for name, tensor in target.state_dict().items():
        if name.startswith("final_conv"):
            continue
        assert torch.equal(tensor, source.state_dict()[name]) or name in report.rescaled, name
        assert name in report.loaded
    assert torch.equal(target.final_conv.weight, before)
    assert report.skipped == ["final_conv.weight", "final_conv.bias"]
    assert not report.missing and not report.mismatched and report.share == 1


def test_weights_that_grew_in_pre_training_are_brought_back_to_the_size_of_new_ones(tmp_path: Path) -> None:
    source, target = unet().double().eval(), unet().double().eval()
    weight = "upcat_1.convs.conv_0.conv.weight"
    source.get_parameter(weight).data.mul_(5)
    norm, x = target.get_parameter(weight).norm(), torch.rand(1, 1, 32, 32, 32, dtype=torch.float64)
    save_weights(tmp_path / "model.pt", source, RECIPE)
    report = load_pretrained(target, tmp_path / "model.pt")
    assert weight in report.rescaled and torch.isclose(target.get_parameter(weight).norm(), norm)
    target.final_conv.load_state_dict(source.final_conv.state_dict())
    assert torch.allclose(target(x), source(x), atol=1e-3)
    assert not load_pretrained(target, tmp_path / "model.pt", restore_scale=False).rescaled
    assert torch.equal(target.get_parameter(weight), source.get_parameter(weight))


def test_a_bare_state_dict_has_its_recipe_beside_it(tmp_path: Path) -> None:
    network = unet()
    save_weights(tmp_path / "model.pt", network, RECIPE, bare=True)
    assert set(torch.load(tmp_path / "model.pt", weights_only=True)) == set(network.state_dict())
    state, recipe = read_weights(tmp_path / "model.pt")
    assert recipe["volumes"] == RECIPE["volumes"] and recipe["spacing"] == [1.5, 1.5, 2.0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.pt"]


def test_differences_of_the_recipes_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_weights(tmp_path / "model.pt", unet(), RECIPE)
    report = load_pretrained(
        unet(), tmp_path / "model.pt", recipe={"spacing": [1, 1, 1], "intensity_range": (-57, 164)}
    )
    assert report.differences == ["spacing was [1.5, 1.5, 2.0], is [1, 1, 1]"]
    assert "recipe differs: spacing was [1.5, 1.5, 2.0], is [1, 1, 1]" in caplog.text


def test_a_run_can_tell_which_weights_it_started_from(tmp_path: Path) -> None:
    networks = [unet(), unet()]
    for name, network in (("a", networks[0]), ("copy", networks[0]), ("b", networks[1])):
        save_weights(tmp_path / f"{name}.pt", network, {**RECIPE, "file": name})
    a, copy, b = (load_pretrained(unet(), tmp_path / f"{name}.pt").digest for name in ("a", "copy", "b"))
    assert a == copy != b and len(a) == 16
    overwritten = load_pretrained(unet(), tmp_path / "a.pt", output=tmp_path / "x" / ".." / "a.pt")
    assert overwritten.digest == "an earlier state of the same file"


def test_too_small_a_share_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    save_weights(tmp_path / "model.pt", unet(), {})
    target = unet(features=(4, 4, 8, 8, 24, 4))
    before = {n: t.clone() for n, t in target.state_dict().items()}
    with pytest.raises(ValueError, match=r"must fill 90% .* got \d") as caught:
        load_pretrained(target, tmp_path / "model.pt")
    assert "mismatched: down_4.convs.conv_0.conv.weight (16, 8, 3, 3, 3) for (24, 8, 3, 3, 3)" in str(caught.value)
    assert all(torch.equal(before[n], t) for n, t in target.state_dict().items())
    report = load_pretrained(target, tmp_path / "model.pt", min_share=0.01)
    assert 0.01 < report.share < 0.9 and report.mismatched


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "model.pt", SwinUNETR(1, 2, feature_size=12), {})
    with pytest.raises(ValueError, match=r"got 0\.0%"):
        load_pretrained(unet(), tmp_path / "model.pt", min_share=0.001)


def test_weights_of_another_network_are_refused_by_their_cause_in_a_few_lines(tmp_path: Path) -> None:
    save_weights(
        tmp_path / "model.pt", SwinUNETR(1, 2, feature_size=12), {"network": "SwinUNETR", "spacing": [1, 1, 1]}
    )
    with pytest.raises(ValueError) as caught:
        load_pretrained(unet(), tmp_path / "model.pt", recipe={"network": "BasicUNet", "spacing": [1, 1, 2]})
    first, counts, *rest = str(caught.value).splitlines()
    assert first == (
        "pre-trained weights must fill 90% of the network outside its output layer, got 0.0%, "
        "since network was SwinUNETR, is BasicUNet:"
    )
    missing = len([name for name in unet().state_dict() if not name.startswith("final_conv")])
    assert f"{missing} missing" in counts and rest[-1] == f"  missing: {missing - 5} more"
    assert [line for line in rest if "recipe differs" in line] == rest[:2] and len(rest) == 8


@pytest.mark.parametrize(("old", "new"), [(1, 4), (4, 1), (2, 3), (3, 3)])
def test_adapted_stem_answers_equal_channels_alike(old: int, new: int) -> None:
    weight, x = torch.randn(5, old, 3, 3, 3), torch.rand(1, 1, 6, 6, 6)
    before = torch.nn.functional.conv3d(x.expand(-1, old, -1, -1, -1), weight)
    after = torch.nn.functional.conv3d(x.expand(-1, new, -1, -1, -1), adapt_stem(weight, new))
    assert torch.allclose(before, after, atol=1e-5)


@pytest.mark.slow
def test_all_three_stem_tensors_of_swin_are_adapted(tmp_path: Path) -> None:
    save_weights(tmp_path / "model.pt", SwinUNETR(1, 2, feature_size=12), {})
    report = load_pretrained(SwinUNETR(4, 3, feature_size=12), tmp_path / "model.pt")
    assert len(report.adapted) == 3 and not report.mismatched


class Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


def test_a_file_that_runs_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": Evil(tmp_path / "ran")}}, tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    for name in ("evil.pt", "plain.pt"):
        with pytest.raises(ValueError, match=f"weights must hold tensors and plain data only, cannot read .*{name}"):
            read_weights(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 truncated"])
def test_broken_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.pt").write_bytes(content)
    with pytest.raises(ValueError, match="broken.pt"):
        read_weights(tmp_path / "broken.pt")


HOSTILE_TENSORS = {
    "NaN or infinity": lambda t: t * float("nan"),
    "torch.complex64": lambda t: t.to(torch.complex64),
    "torch.sparse_coo": lambda t: t.to_sparse(),
    "on meta": lambda t: t.to("meta"),
    "without a value for each element": lambda t: t[:1, :1, :1, :1, :1].expand(len(t), 2**38, *t.shape[2:]),
}


@pytest.mark.parametrize("fault", HOSTILE_TENSORS)
def test_tensors_that_are_no_dense_finite_numbers_are_named(tmp_path: Path, fault: str) -> None:
    state = unet().state_dict()
    name = "conv_0.conv_0.conv.weight"
    torch.save({**state, name: HOSTILE_TENSORS[fault](state[name])}, tmp_path / "p.pt")
    target = unet()
    before = {n: t.clone() for n, t in target.state_dict().items()}
    with pytest.raises(ValueError, match=f"dense and finite numbers, got .*{fault}.* in '{name}' of {tmp_path}/p.pt"):
        load_pretrained(target, tmp_path / "p.pt", min_share=0.01)
    assert all(torch.equal(before[n], t) for n, t in target.state_dict().items())


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    torch.save({name: tensor.int() for name, tensor in unet().state_dict().items()}, tmp_path / "p.pt")
    with pytest.raises(ValueError, match=r"mismatched: conv_0.conv_0.conv.weight torch.int32 for torch.float32"):
        load_pretrained(unet(), tmp_path / "p.pt", min_share=0.01)


def test_weights_that_unpack_to_more_than_their_size_are_refused(tmp_path: Path) -> None:
    torch.save(unet().state_dict(), tmp_path / "stored.pt")
    with zipfile.ZipFile(tmp_path / "stored.pt") as stored:
        with zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed:
            for member in stored.infolist():
                packed.writestr(member.filename, bytes(1 << 20) if "/data/" in member.filename else stored.read(member))
    with pytest.raises(ValueError, match=r"packed.pt: its parts must be stored uncompressed, got \d+ bytes"):
        read_weights(tmp_path / "packed.pt")


@pytest.mark.parametrize(
    "recipe", [[1], {"volumes": 7}, {"volumes": [1]}, {"spacing": torch.ones(3)}, {"a": float("nan")}]
)
def test_recipes_that_are_no_plain_data_are_refused(tmp_path: Path, recipe: object) -> None:
    torch.save({"state_dict": unet().state_dict(), "recipe": recipe}, tmp_path / "p.pt")
    with pytest.raises(ValueError, match=f"the recipe.* must be .*, got something else in {tmp_path}/p.pt"):
        read_weights(tmp_path / "p.pt")


def test_what_the_configs_load_runs_no_code(tmp_path: Path) -> None:
    # inference and evaluation load by MONAI's handler, cached volumes by its data set
    network = unet()
    torch.save({"model": Evil(tmp_path / "ran")}, tmp_path / "model.pt")
    handler = CheckpointLoader(str(tmp_path / "model.pt"), {"model": network}, map_location="cpu")
    with pytest.raises(pickle.UnpicklingError):
        handler(Engine(lambda *_: None))
    item, transform = {"image": torch.ones(1)}, Compose([Identityd("image")])
    dataset = make_dataset([item], transform, "disk", tmp_path / "cache")
    assert dataset[0]["image"] == 1
    (cached,) = (tmp_path / "cache").iterdir()
    torch.save(Evil(tmp_path / "ran"), cached)
    with pytest.warns(UserWarning, match="Corrupt cache file"):
        assert dataset[0]["image"] == 1
    assert not (tmp_path / "ran").exists()


def test_no_other_code_loads_pickles() -> None:
    root = Path(__file__).resolve().parents[2]
    sources = [path for part in ("hybridmim_components", "ci") for path in (root / part).rglob("*.py")]
    calls = {
        ast.unparse(node)
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and re.search(r"(\.load|Unpickler|read_pickle)$", ast.unparse(node.func))
    }
    loads = {call for call in calls if call.startswith("torch.load(")}
    assert loads and all("weights_only=True" in call for call in loads)
    # TorchScript that was just written here, images, arrays (numpy refuses pickles unless told otherwise), and our own
    assert {call for call in calls - loads if not call.startswith("json.load")} == {
        "torch.jit.load(target)",
        "torch.jit.load(str(path), map_location='cpu')",
        "nib.load(name)",
        "nib.load(path)",
        "np.load(copy, mmap_mode='r')",
        "np.load(f'{root}/{name}', mmap_mode='r')",
        "TrainedBundle.load(bundle, weights, roi_size, overrides)",
        "form.load(file)",
    }


def test_missing_weights_say_where_was_looked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no weights at models/p.pt or {tmp_path}/models/p.pt"):
        find_weights("models/p.pt", tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "p.pt").touch()
    assert find_weights("models/p.pt", tmp_path) == tmp_path / "models" / "p.pt"

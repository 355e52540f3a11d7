"""SAELens's folder format, both ways. `saelens_files` was written by sae-lens 6.54.12 (`saelens_parity.py make`)."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sae import Moment, build_sae, load_sae, save_sae
from triggerlens import UserError

FILES = Path(__file__).parent / "saelens_files"
KINDS = ("standard", "standard_no_b_dec", "topk", "topk_rescaled", "jumprelu", "gated", "batchtopk_trained")
OURS = {name: {"k": 3} for name in ("topk", "batch-topk", "matryoshka", "jumprelu", "crosscoder")}
OURS |= {"gated": {"penalty": 1.0}, "standard": {"penalty": 1.0}}


def trained(name):
    """An autoencoder with every parameter moved off its start."""
    torch.manual_seed(0)
    sae = build_sae(name, 6, 10, **OURS[name])
    for parameter in sae.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    sae.loss(torch.randn(50, 6), Moment())
    sae.metadata = {"model_name": "m", "site": "resid_post.2"}
    return sae


@pytest.mark.parametrize("kind", KINDS)
def test_what_sae_lens_wrote_computes_the_same_here(kind):
    expected = load_file(FILES / kind / "expected.safetensors")
    sae = load_sae(FILES / kind)
    torch.testing.assert_close(sae.encode(expected["x"]), expected["latents"])
    torch.testing.assert_close(sae(expected["x"]), expected["output"])


@pytest.mark.parametrize("kind", ["standard", "gated", "jumprelu"])
def test_without_the_decoder_s_bias_at_its_input_an_encoder_takes_what_was_centred(kind, tmp_path):
    """SAELens's `process_sae_in`: x - b_dec with `apply_b_dec_to_input`, and x without."""
    expected = load_file(FILES / kind / "expected.safetensors")
    folder = altered(tmp_path / "sae", kind, apply_b_dec_to_input=False)
    sae = load_sae(folder)
    centred = expected["x"] - load_file(folder / "sae_weights.safetensors")["b_dec"]
    assert expected["latents"].any()
    torch.testing.assert_close(sae.encode(centred), expected["latents"])
    torch.testing.assert_close(sae(centred), expected["output"])


@pytest.mark.parametrize("name", OURS)
def test_what_is_written_here_is_read_here(name, tmp_path):
    sae, x = trained(name), torch.randn(7, 6)
    save_sae(sae, tmp_path / "sae")
    back = load_sae(tmp_path / "sae")
    torch.testing.assert_close(back.encode(x), sae.encode(x))
    torch.testing.assert_close(back(x), sae(x))
    assert back.metadata["site"] == "resid_post.2"
    assert back.metadata["hook_name"] == "blocks.2.hook_resid_post"
    assert back.metadata["trained_as"] == name


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("topk", "topk"),
        ("jumprelu", "jumprelu"),
        ("batch-topk", "jumprelu"),
        ("matryoshka", "jumprelu"),
        ("gated", "gated"),
        ("standard", "standard"),
    ],
)
def test_what_is_written_here_has_the_form_that_sae_lens_writes(name, kind, tmp_path):
    """The same keys with values of the same type, the same tensors of the same shape and dtype."""
    save_sae(trained(name), tmp_path / "sae")
    ours, theirs = (json.loads((folder / "cfg.json").read_text()) for folder in (tmp_path / "sae", FILES / kind))
    assert ours.keys() == theirs.keys()
    assert {key: type(value) for key, value in ours.items()} == {key: type(value) for key, value in theirs.items()}
    assert ours["architecture"] == theirs["architecture"]
    tensors = []
    for folder in (tmp_path / "sae", FILES / kind):
        with safe_open(folder / "sae_weights.safetensors", "pt") as stored:
            slices = {name: stored.get_slice(name) for name in stored.keys()}  # noqa: SIM118
            tensors.append({name: (part.get_shape(), part.get_dtype()) for name, part in slices.items()})
    assert tensors[0] == tensors[1]


@pytest.mark.skipif("SAELENS_PYTHON" not in os.environ, reason="no environment with sae-lens: set SAELENS_PYTHON")
def test_what_is_written_here_computes_the_same_in_sae_lens(tmp_path):
    for name in OURS.keys() - {"crosscoder"}:
        sae, x = trained(name), torch.randn(7, 6)
        save_sae(sae, tmp_path / name)
        expected = {"x": x, "latents": sae.encode(x), "output": sae(x)}
        save_file({key: value.detach() for key, value in expected.items()}, tmp_path / name / "expected.safetensors")
    script = Path(__file__).with_name("saelens_parity.py")
    done = subprocess.run(
        [os.environ["SAELENS_PYTHON"], str(script), "check", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    assert len(done.stdout.splitlines()) == len(OURS) - 1


def altered(folder, kind="topk", **changes):
    """A copy of a file set with changes to its configuration."""
    shutil.copytree(FILES / kind, folder)
    config = json.loads((folder / "cfg.json").read_text()) | changes
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"normalize_activations": "layer_norm"}, "normalises activations by 'layer_norm'"),
        ({"reshape_activations": "hook_z"}, "hook_z"),
        ({"architecture": "temporal"}, "holds a 'temporal' autoencoder, which is not known here; topk, "),
        ({"activation_fn": "tanh-relu"}, "activation function 'tanh-relu'"),
        ({"d_sae": 11}, "cfg.json says 6 → 11, the weights 6 → 10"),
        ({"k": 99}, "k must lie between 1 and the width, 10; found 99"),
        ({"architecture": "gated"}, "do not belong together"),
    ],
)
def test_what_would_change_the_numbers_is_refused(tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        load_sae(altered(tmp_path / "sae", **changes))


def test_an_architecture_that_is_not_known_here():
    with pytest.raises(UserError, match="holds a 'matching_pursuit' autoencoder, which is not known here"):
        load_sae(FILES / "matching_pursuit")


def test_damaged_files_are_named(tmp_path):
    for manifest in (True, False):
        for name, damage in (("sae_weights.safetensors", -9), ("cfg.json", -3)):
            folder = tmp_path / f"{name}-{manifest}"
            save_sae(trained("topk"), folder)
            (folder / name).write_bytes((folder / name).read_bytes()[:damage])
            if not manifest:
                (folder / "manifest.json").unlink()
            with pytest.raises(UserError, match=f"{name}: damaged"):
                load_sae(folder)
    with pytest.raises(UserError, match=r"\(cfg.json is missing\); give a local folder .* \.npz files are not"):
        load_sae(tmp_path)
    weights = load_file(FILES / "topk" / "sae_weights.safetensors")
    weights["W_dec"][0, 0] = float("nan")
    save_file(weights, altered(tmp_path / "nan") / "sae_weights.safetensors")
    with pytest.raises(UserError, match="W_dec holds NaN"):
        load_sae(tmp_path / "nan")

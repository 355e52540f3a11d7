"""Both directions of the SAELens file format, in an environment that has sae-lens and not this project.

    python tests/sae/saelens_parity.py make FOLDER    # write small autoencoders with sae-lens: tests/sae/saelens_files
    python tests/sae/saelens_parity.py check FOLDER   # load ours with sae-lens, and compare with what we say they compute

Each folder holds an autoencoder and `expected.safetensors`: inputs `x`, and what its writer makes of them, `latents` and
`output`.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

D_IN, D_SAE = 6, 10


def make(root: Path) -> None:
    """One autoencoder of each kind, with random weights."""
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.saes.gated_sae import GatedSAE, GatedSAEConfig
    from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
    from sae_lens.saes.matching_pursuit_sae import MatchingPursuitSAE, MatchingPursuitSAEConfig
    from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
    from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

    size = {"d_in": D_IN, "d_sae": D_SAE}
    torch.manual_seed(0)
    saes = {
        "standard": StandardSAE(StandardSAEConfig(**size)),
        "standard_no_b_dec": StandardSAE(StandardSAEConfig(**size, apply_b_dec_to_input=False)),
        "topk": TopKSAE(TopKSAEConfig(**size, k=3)),
        "topk_rescaled": TopKSAE(TopKSAEConfig(**size, k=3, rescale_acts_by_decoder_norm=True)),
        "jumprelu": JumpReLUSAE(JumpReLUSAEConfig(**size)),
        "gated": GatedSAE(GatedSAEConfig(**size)),
        "batchtopk_trained": BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**size, k=3)),
        "matching_pursuit": MatchingPursuitSAE(MatchingPursuitSAEConfig(**size)),
    }
    for name, sae in saes.items():
        for parameter in sae.parameters():
            parameter.data = torch.randn_like(parameter) * 0.5
        if name == "batchtopk_trained":
            sae.topk_threshold = torch.tensor(0.3, dtype=torch.double)
            sae.save_inference_model(root / name)
            sae = type(saes["jumprelu"]).load_from_disk(root / name)
        else:
            sae.save_model(root / name)
        x = torch.randn(5, D_IN)
        with torch.no_grad():
            latents = sae.encode(x)
            # What the latents of a rescaled autoencoder are is a convention; its output is not.
            save_file({"x": x, "latents": latents, "output": sae(x)}, root / name / "expected.safetensors")


def check(root: Path) -> None:
    """Load every autoencoder there; print the largest difference of each."""
    from sae_lens import SAE

    for folder in sorted(path.parent for path in root.glob("*/cfg.json")):
        expected = load_file(folder / "expected.safetensors")
        sae = SAE.load_from_disk(folder)
        with torch.no_grad():
            latents = sae.encode(expected["x"])
            differences = (
                (latents - expected["latents"]).abs().max(),
                (sae.decode(latents) - expected["output"]).abs().max(),
            )
        assert max(differences) < 1e-4, f"{folder.name}: {differences}"
        print(f"{folder.name}: {type(sae).__name__}, largest difference {float(max(differences)):.1e}")


if __name__ == "__main__":
    {"make": make, "check": check}[sys.argv[1]](Path(sys.argv[2]))

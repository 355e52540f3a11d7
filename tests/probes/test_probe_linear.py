"""The saved probe, and aggregation over positions."""

import json

import pytest
import torch
from safetensors.torch import save_file

from probes import LinearProbe, aggregate
from triggerlens import Manifest, UserError, writing_artifact


def make_probe(**changes):
    generator = torch.Generator().manual_seed(0)
    facts = {
        "coef": torch.randn(3, 8, generator=generator, dtype=torch.float64),
        "intercept": torch.randn(3, generator=generator, dtype=torch.float64),
        "thresholds": torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64),
        "sites": ("resid_post.0", "resid_post.1", "resid_post.2"),
        "best": 1,
        "aggregation": "max",
        "label": "defects",
        "method": "logistic",
        "model": "year-code",
        "weights_sha256": "ab" * 32,
        "calibration": {"target_fpr": 0.01, "n_negative": 200},
    }
    return LinearProbe(**(facts | changes))


def test_scores_the_best_site_and_fires_strictly_above_its_threshold():
    probe, x = make_probe(), torch.randn(2, 5, 8)
    torch.testing.assert_close(probe(x), x.double() @ probe.coef[1] + probe.intercept[1])
    assert (probe.site, probe.layer, probe.d_model, probe.threshold) == ("resid_post.1", 1, 8, 0.5)
    assert probe.fires(torch.tensor([0.5, 0.6])).tolist() == [False, True]
    assert float(torch.linalg.vector_norm(probe.direction)) == pytest.approx(1)


def test_save_and_load_give_the_same_probe_and_the_same_bytes(tmp_path):
    probe = make_probe()
    loaded = LinearProbe.load(probe.save(tmp_path / "a"))
    x = torch.randn(5, 8)
    assert torch.equal(loaded(x), probe(x))
    for name in ("sites", "best", "aggregation", "label", "method", "model", "weights_sha256", "calibration"):
        assert getattr(loaded, name) == getattr(probe, name)
    loaded.save(tmp_path / "b")
    for name in ("probe.safetensors", "probe.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_folder_written_before_is_read(tmp_path):
    tensors = {
        "coef": torch.ones(1, 2, dtype=torch.float64),
        "intercept": torch.tensor([0.5], dtype=torch.float64),
        "thresholds": torch.tensor([1.0], dtype=torch.float64),
    }
    facts = (
        '{"sites": ["resid_post.2"], "best": 0, "aggregation": "last", "label": "defects", "method": "lda", "model": "mine", '
        '"weights_sha256": "ab", "calibration": {"target_fpr": 0.01, "n_negative": 5, "note": "few"}, '
        '"site": "resid_post.2", "layer": 2, "threshold": 1.0, "d_model": 2}'
    )
    with writing_artifact(tmp_path / "probe", Manifest("probe", command="probe-train", config={"c": 1.0})) as folder:
        save_file(tensors, folder / "probe.safetensors")
        (folder / "probe.json").write_text(facts)
    probe = LinearProbe.load(tmp_path / "probe")
    assert (probe.method, probe.calibration["note"], probe.threshold) == ("lda", "few", 1.0)
    assert probe(torch.ones(1, 2)).tolist() == [2.5]


@pytest.mark.parametrize("name", ["probe.safetensors", "probe.json"])
def test_a_damaged_or_missing_file_is_named(tmp_path, name):
    folder = make_probe().save(tmp_path / "probe")
    content = bytearray((folder / name).read_bytes())
    content[-9] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: damaged"):
        LinearProbe.load(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}: missing"):
        LinearProbe.load(folder)


def test_a_manifest_that_leaves_a_file_out_is_refused(tmp_path):
    folder = make_probe().save(tmp_path / "probe")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["probe.json"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"probe\.json: missing"):
        LinearProbe.load(folder)


def test_no_probe_there(tmp_path):
    with pytest.raises(UserError, match="no probe here"):
        LinearProbe.load(tmp_path)


def test_another_width_is_refused_with_both_widths():
    with pytest.raises(UserError, match=r"\(trained on year-code\) has width 8 but the activations have width 9"):
        make_probe()(torch.zeros(1, 9))


@pytest.mark.parametrize(
    "changes", [{"best": 3}, {"sites": ("resid_post.0",)}, {"thresholds": torch.zeros(2)}, {"aggregation": "first"}]
)
def test_inconsistent_probes_cannot_be_made(changes):
    with pytest.raises((ValueError, TypeError)):
        make_probe(**changes)


def test_aggregates_ragged_token_scores():
    scores = torch.tensor([1.0, 5.0, 3.0, -1.0, -2.0])
    assert aggregate(scores, [3, 2], "last").tolist() == [3, -2]
    assert aggregate(scores, [3, 2], "mean").tolist() == [3, -1.5]
    assert aggregate(scores, [3, 2], "max").tolist() == [5, -1]
    assert aggregate(scores[:, None].expand(-1, 4), [3, 2], "max").shape == (2, 4)


def test_the_mean_of_token_scores_is_the_score_of_the_mean():
    probe, x = make_probe(), torch.randn(6, 8)
    torch.testing.assert_close(aggregate(probe(x), [6], "mean"), probe(x.double().mean(0, keepdim=True)))


@pytest.mark.parametrize(("lengths", "how"), [([3, 3], "max"), ([5, 0], "max"), ([5], "median")])
def test_aggregate_refuses_what_does_not_fit(lengths, how):
    with pytest.raises((ValueError, TypeError)):
        aggregate(torch.zeros(5), lengths, how)

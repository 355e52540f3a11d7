"""One whole checkpoint is always there, and none is lost to another configuration."""

import pytest
import torch

from triggerlens import UserError
from triggerlens.checkpoints import drop_checkpoints, keep_common, load_checkpoint, save_checkpoint

CONFIG = {"steps": 10, "inner": {"k": 3}, "sizes": (1, 2)}


def save(folder, step, config=CONFIG):
    save_checkpoint(folder, "test", config, step, {"x": torch.full((3,), float(step))}, {"place": step * 2})


def test_the_newest_whole_one_is_read_and_older_ones_go(tmp_path):
    assert load_checkpoint(tmp_path, "test", CONFIG) is None
    save(tmp_path, 5)
    save(tmp_path, 7)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007"]
    tensors, facts = load_checkpoint(tmp_path, "test", CONFIG)
    assert tensors["x"].tolist() == [7, 7, 7]
    assert facts == {"step": 7, "place": 14}


def test_a_damaged_one_counts_for_nothing(tmp_path):
    save(tmp_path, 5)
    (tmp_path / "step-00000009").mkdir()
    assert load_checkpoint(tmp_path, "test", CONFIG)[1]["step"] == 5
    state = tmp_path / "step-00000005" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-1])
    assert load_checkpoint(tmp_path, "test", CONFIG) is None


def test_what_is_left_of_a_checkpoint_of_the_same_step_is_in_no_one_s_way(tmp_path):
    (tmp_path / "step-00000009").mkdir()
    save(tmp_path, 9)
    assert load_checkpoint(tmp_path, "test", CONFIG)[1]["step"] == 9
    save(tmp_path, 9)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000009"]


def test_another_configuration_is_refused_by_name_and_dropped_only_where_asked(tmp_path):
    save(tmp_path, 5)
    other = CONFIG | {"inner": {"k": 4}}
    with pytest.raises(UserError, match=r"an unfinished run with inner.k 3 \(not 4\); finish it, or --overwrite"):
        load_checkpoint(tmp_path, "test", other)
    assert load_checkpoint(tmp_path, "test", CONFIG) is not None
    assert load_checkpoint(tmp_path, "test", other, restart=True) is None
    assert load_checkpoint(tmp_path, "test", CONFIG) is None
    drop_checkpoints(tmp_path)
    assert not tmp_path.exists()


def test_ranks_go_on_from_the_newest_step_that_all_have(tmp_path):
    """Killed while they were written: one rank has the new checkpoint, and the other not yet."""
    ranks = [tmp_path / "rank-0", tmp_path / "rank-1"]
    for folder in ranks:
        save(folder, 10)

    class Killed(Exception):
        pass

    def kill():
        raise Killed

    with pytest.raises(Killed):
        save_checkpoint(ranks[0], "test", {"rate": 0.1}, 20, {"x": torch.zeros(3)}, {"place": 40}, written=kill)
    assert [path.name for path in sorted(ranks[0].iterdir())] == ["step-00000010", "step-00000020"]
    names = [{path.name for path in folder.iterdir()} for folder in ranks]
    for folder in ranks:
        keep_common(folder, "test", lambda own: names)
        assert [path.name for path in folder.iterdir()] == ["step-00000010"]
    save(ranks[0], 20)
    next((ranks[0] / "step-00000020").glob("*.safetensors")).write_bytes(b"damaged")
    keep_common(ranks[0], "test", lambda own: [own, own])
    assert not [*ranks[0].iterdir()], "a damaged one is none, and without any they begin anew"

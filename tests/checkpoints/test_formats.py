"""What lies under a weight's name is told by its first bytes."""

import gzip
import os
import tarfile
import warnings

import pytest
import torch
from safetensors.torch import save_file

from src.checkpoints.formats import OTHERS, Format, format_of
from src.checkpoints.opening import open_checkpoint
from src.errors import UserError

TREE = {"w": torch.arange(6.0).reshape(2, 3), "n": torch.arange(2)}


def test_weights_are_read_under_any_name(tmp_path):
    save_file(TREE, tmp_path / "pytorch_model.bin")
    torch.save(TREE, tmp_path / "model.safetensors")
    torch.save(TREE, tmp_path / "backup", _use_new_zipfile_serialization=False)
    for name, expected in (
        ("pytorch_model.bin", Format.SAFETENSORS),
        ("model.safetensors", Format.TORCH),
        ("backup", Format.TORCH),
    ):
        assert format_of(tmp_path / name) is expected
        opened = open_checkpoint(tmp_path / name)
        assert set(opened) == set(TREE) and all(torch.equal(opened[key], TREE[key]) for key in TREE)


@pytest.mark.parametrize("start", OTHERS, ids=repr)
@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_what_are_no_weights_is_called_what_it_is(tmp_path, start, name):
    (tmp_path / name).write_bytes(start + b"\0rest of the file")
    with pytest.raises(UserError, match=rf"{name} is ") as excinfo:
        open_checkpoint(tmp_path / name)
    assert OTHERS[start] in str(excinfo.value)


def test_files_as_they_come(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n")
    with pytest.raises(UserError, match="git lfs pull"):
        open_checkpoint(path)
    path.write_text("\n<!DOCTYPE html><html>Sign in</html>")
    with pytest.raises(UserError, match="web page"):
        open_checkpoint(path)
    path.write_bytes(gzip.compress(b"weights"))
    with pytest.raises(UserError, match="compressed; unpack it"):
        open_checkpoint(path)
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "code.py")
    with pytest.raises(UserError, match="tar archive"):
        open_checkpoint(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="is empty"):
        open_checkpoint(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="no regular file"):
        open_checkpoint(path)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = torch.nn.Linear(3, 2)
        self.norm = torch.nn.BatchNorm1d(2)
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
        self.register_buffer("resolution", torch.tensor(224))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.norm(self.lin(x))


def test_a_scripted_module_is_read_as_its_state_dict(tmp_path):
    net = Net().half()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(net), tmp_path / "ViT-B-32.pt")
    opened, expected = open_checkpoint(tmp_path / "ViT-B-32.pt"), net.state_dict()
    assert set(opened) == set(expected)
    assert all(torch.equal(opened[key], expected[key]) and opened[key].dtype == expected[key].dtype for key in expected)

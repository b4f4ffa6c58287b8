"""`attnsurgeon export DIR FILE`: which form, which file, and what is said where it fails."""

import pytest
import torch

import attnsurgeon as library
from tests.cli.command import TINY, attnsurgeon

NET = [f"{TINY}net", "--input-size", "3,40,24"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "net-se"
    assert attnsurgeon("insert", *NET, "--attn", "se", "-o", path).code == 0
    return path


def export(folder, *args):
    return attnsurgeon("export", folder, *args, "--trust-code")


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_the_name_of_the_file_is_enough(folder, tmp_path):
    done = export(folder, tmp_path / "net.pt", "--dynamic-batch", "--dynamic-sizes", "--json")
    assert done.code == 0
    record = done.json()
    assert (record["format"], record["batches"]) == ("torchscript", [1, 3])
    assert record["sizes"] == [[3, 40, 24], [3, 72, 88]]
    read = torch.jit.load(tmp_path / "net.pt")
    model = library.load(folder, trust=True).eval()
    x = torch.randn(5, 3, 56, 48)
    torch.testing.assert_close(read(x), model(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "say which file to write"),
        (["net.pt2", "-o", "other.pt2"], "say once which file"),
        (["net.bin"], "ends in .bin, which names no form"),
        (["net.onnx", "--to", "code"], "net.onnx is onnx by its name"),
        (["net.pt2", "--inline"], "--inline is for code, and this is torch-export"),
    ],
)
def test_what_contradicts_itself_is_refused(folder, args, said):
    done = export(folder, *args)
    assert (done.code, done.out) == (2, "")
    assert said in " ".join(done.err.split())


def test_a_name_that_no_module_can_have_is_refused(folder, tmp_path):
    done = export(folder, tmp_path / "my-net.py")
    assert done.code == 2
    assert "my_net.py" in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_code_comes_with_its_weights(folder, tmp_path):
    done = export(folder, tmp_path / "net_se.py", "--json")
    assert done.code == 0
    assert done.json()["beside"] == [str(tmp_path / "net_se.safetensors")]
    assert {file.name for file in tmp_path.iterdir()} == {"net_se.py", "net_se.safetensors"}

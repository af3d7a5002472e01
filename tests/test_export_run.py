"""`autoslim export` on a run and on a lone folder: its images, its int8 file, its words."""

import json
from pathlib import Path
from shutil import copytree

import pytest
import torch
from PIL import Image

from autoslim import load
from autoslim.cli import main
from autoslim.cli._deploy import find_images
from autoslim.data import load_data
from autoslim.errors import DataError


def accuracy(model, mean: float, std: float) -> float:
    test = load_data("digits").test
    with torch.no_grad():
        guess = model((test.images / 255 - mean) / std).argmax(1)
    return (guess == test.labels).double().mean().item()


def test_a_runs_network_is_compared_on_its_search_images(finished: Path, capsys):
    assert main(["export", str(finished), "--network", "macs-30", "--batch", "dynamic"]) == 0
    file, compared, prepare = capsys.readouterr().out.splitlines()
    assert file.startswith(f"onnx         {finished}/models/macs-30/network.onnx (")
    assert "opset 18, any batch" in file
    assert compared.startswith("compared     on 64 search images of digits: differs by at most ")
    assert prepare == (
        "to prepare   an image: [1, 8, 8], resize none, values 0 to 1, less 0.305202, divided by 0.375953"
    )


def test_int8_is_measured_beside_the_float_file(finished: Path, tmp_path: Path, capsys):
    out = tmp_path / "net.onnx"
    args = ["export", str(finished), "--network", "macs-60", "--out", str(out), "--int8", "--batch", "16", "--json"]
    assert main(args) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["batch"], told["opset"], told["files"][0]["path"]) == (16, 18, str(out))
    assert told["prepare"]["classes"] == [str(digit) for digit in range(10)]
    assert told["prepare"]["outputs"] == ["output"]
    int8 = told["int8"]
    assert int8["path"] == str(tmp_path / "net.int8.onnx")
    assert int8["bytes"] < told["files"][0]["bytes"]
    assert int8["test_images"] == 359
    config = json.loads((finished / "models" / "macs-60" / "config.json").read_text())["normalisation"]
    own = accuracy(load(finished / "models" / "macs-60"), config["mean"][0], config["std"][0])
    assert int8["float_test_accuracy"] == pytest.approx(own)
    assert abs(int8["test_accuracy"] - own) < 0.1
    latency = int8["latency"]
    assert (latency["batch"], latency["threads"], latency["rounds"]) == (16, 1, 20)
    assert latency["int8_ms"] > 0
    assert latency["float_ms"] > 0
    assert latency["verdict"] in ("faster", "slower", "alike")
    import onnx

    kinds = {node.op_type for node in onnx.load(int8["path"]).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


def test_a_folder_of_its_own_needs_images_from_somewhere(finished: Path, tmp_path: Path, capsys):
    folder = tmp_path / "mine"
    copytree(finished / "models" / "macs-60", folder)
    assert main(["export", str(folder), "--to", "state-dict"]) == 2
    assert "belongs to no run, so there are no images to compare on" in capsys.readouterr().err
    assert not (folder / "network.pt").exists()
    for images, told in (("digits", "train images of digits"), (str(finished), "search images of digits")):
        assert main(["export", str(folder), "--to", "state-dict", "--images", images]) == 0
        assert f"on 64 {told}" in capsys.readouterr().out
    assert main(["export", str(folder), "--to", "state-dict", "--random"]) == 0
    assert "on 64 random images" in capsys.readouterr().out


def test_a_run_whose_images_are_gone_says_what_else_will_do(finished: Path, tmp_path: Path, capsys):
    run = Path(copytree(finished, tmp_path / "run"))
    data = json.loads((run / "run.json").read_text())
    data["config"]["data"] = f"folder:{tmp_path / 'gone'}"
    (run / "run.json").write_text(json.dumps(data))
    assert main(["export", str(run), "--network", "macs-30"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "gone" in told
    assert "This command also takes other images: give --images with a data set" in told
    assert main(["export", str(run), "--network", "macs-30", "--random"]) == 0


def test_images_of_other_classes_are_refused(finished: Path, tmp_path: Path):
    for name in "abcdefghij":
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.new("L", (8, 8), number).save(tmp_path / name / f"{number}.png")
    folder, given = finished / "models" / "macs-60", f"folder:{tmp_path}"
    config = json.loads((folder / "config.json").read_text())
    assert find_images(folder, config, given=given, random=False).search, "mere numbers are no names"
    find_images(folder, {**config, "classes": list("abcdefghij")}, given=given, random=False)
    with pytest.raises(DataError, match=r"'i' stands among the classes where .* was trained on 'j'; .* Give others"):
        find_images(folder, {**config, "classes": list("abcdefghji")}, given=given, random=False)


def test_a_network_named_in_the_folder_of_one_is_refused(finished: Path, capsys):
    assert main(["export", str(finished / "models" / "macs-60"), "--network", "macs-30"]) == 2
    assert "is the folder of one network, but --network macs-30 was given" in " ".join(capsys.readouterr().err.split())


def test_a_folding_that_finds_nothing_says_so(finished: Path, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("autoslim.export._base.fold_batchnorm_", lambda model, images: 0)
    args = ["export", str(finished), "--network", "macs-60", "--to", "state-dict", "--out", str(tmp_path / "a.pt")]
    assert main(args) == 0
    assert "folded" not in capsys.readouterr().out
    assert main([*args, "--fold-bn"]) == 0
    assert ", 0 BatchNorms folded" in capsys.readouterr().out


def test_test_images_are_those_of_the_networks_own_split(finished: Path):
    folder = finished / "models" / "macs-60"
    config = json.loads((folder / "config.json").read_text())
    assert config["seed"] == 0
    images = find_images(folder, {**config, "seed": 1}, given="digits", random=False)
    data = load_data("digits", seed=1)
    assert images.test is not None
    assert images.test.rows.tolist() == data.test.rows.tolist()
    assert images.search is not None
    assert not set(images.search.rows.tolist()) & set(data.test.rows.tolist())
    tests = images.tests()
    assert [sum(len(labels) for _, labels in tests) for _ in range(2)] == [359, 359]


def test_a_place_where_nothing_can_be_written_is_told(finished: Path, capsys):
    args = ["export", str(finished), "--network", "macs-30", "--to", "state-dict"]
    assert main([*args, "--out", "/dev/null/network.pt"]) == 2
    assert "/dev/null" in (told := " ".join(capsys.readouterr().err.split()))
    assert "Give another" in told


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "has several networks; expected one of them: macs-30, macs-60. Write --network macs-30."),
        (["--network", "macs-3"], "has no network 'macs-3'; expected one of macs-30, macs-60."),
        (["--to", "caffe"], "Unknown export format 'caffe'"),
    ],
)
def test_what_can_not_be_done_is_told(finished: Path, args: list[str], message: str, capsys):
    assert main(["export", str(finished), *args]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("other", ["--to python", "--random"])
def test_int8_goes_with_onnx_and_real_images_only(finished: Path, other: str, capsys):
    with pytest.raises(SystemExit):
        main(["export", str(finished), "--int8", *other.split()])
    assert f"--int8 together with {other}" in " ".join(capsys.readouterr().err.split())


def test_a_folder_that_holds_nothing_is_told(tmp_path: Path, capsys):
    assert main(["export", str(tmp_path)]) == 2
    assert "holds neither a run's networks nor one network" in capsys.readouterr().err

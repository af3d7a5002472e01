"""Files are written whole, a folder never holds two runs, a torn line is cut off."""

import json
import os
import signal
import subprocess
import sys

import pytest

from autoslim.errors import RunFolderError
from autoslim.run_folder import RunFolder, read_json, remove_folder, whole_folder, write_json, write_whole


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"_type": "A", "_version": 1})

    def broken(aside):
        aside.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, broken)
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert read_json(path, kind="A") == {"_type": "A", "_version": 1}


def test_one_process_at_a_time_is_at_work_in_a_folder(tmp_path):
    run = RunFolder.create(tmp_path / "run", {})
    with run.held():
        other, _ = RunFolder.open(tmp_path / "run")
        with pytest.raises(RunFolderError, match="Another process is at work in"), other.held():
            pass
        write_json(run.path / "run.json", read_json(run.path / "run.json", kind="Run"))  # replaced meanwhile
        with pytest.raises(RunFolderError, match="Another process is at work in"), other.held():
            pass
    with other.held():  # it is free again
        pass


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    def break_off():
        with whole_folder(tmp_path / "model") as aside:
            (aside / "deep").mkdir()
            (aside / "deep" / "a").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert list(tmp_path.iterdir()) == []
    with whole_folder(tmp_path / "model") as aside:
        (aside / "a").write_text("x")
        assert not (tmp_path / "model").exists()
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["a"]


def test_what_a_link_in_a_removed_folder_points_to_stays(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a").write_text("x")
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "link").symlink_to(tmp_path / "kept")
    remove_folder(tmp_path / "gone")
    assert not (tmp_path / "gone").exists()
    assert (tmp_path / "kept" / "a").read_text() == "x"


def test_a_folder_is_claimed_once(tmp_path):
    RunFolder.create(tmp_path / "run", {"config": {}, "command": ""})
    with pytest.raises(RunFolderError) as error:
        RunFolder.create(tmp_path / "run", {"config": {}, "command": ""})
    assert str(error.value) == (
        f"The output folder {tmp_path / 'run'} holds another run; expected a new or empty one. Choose another with "
        f"--out, or go on with that run: autoslim run --resume {tmp_path / 'run'}."
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(
        RunFolderError, match=r"holds other files; expected a new or empty one\. Choose another with --out\."
    ):
        RunFolder.check(tmp_path / "mine")
    RunFolder.check(tmp_path / "new")
    assert not (tmp_path / "new").exists()


KILLED = """
import os, pathlib, signal, sys, time
from autoslim.run_folder import RunFolder

with RunFolder(pathlib.Path(sys.argv[1])).held():
    child = os.fork()
    if not child:
        os.close(1)
        time.sleep(30)
        os._exit(0)
    print(child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_a_data_worker_that_outlives_its_run_does_not_keep_the_folder(tmp_path):
    run = RunFolder.create(tmp_path / "run", {})
    done = subprocess.run([sys.executable, "-c", KILLED, run.path], stdout=subprocess.PIPE, check=False)
    assert done.returncode == -signal.SIGKILL
    worker = int(done.stdout)
    try:
        os.kill(worker, 0)  # it is still there
        with run.held():
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_lines_come_back_and_a_torn_last_one_is_passed_over(tmp_path):
    folder = RunFolder.create(tmp_path / "run", {"config": {}, "command": ""})
    assert folder.lines("search.jsonl") == []
    folder.append("search.jsonl", {"step": 1})
    folder.append("search.jsonl", {"step": 2})
    path = folder.path / "search.jsonl"
    whole = path.read_text()
    for cut in range(1, len('{"step": 2}') + 1):
        path.write_text(whole[:-cut])
        assert folder.lines("search.jsonl") == [{"step": 1}]
        assert path.read_text() == whole[:-cut]  # another process may be writing it just now
    path.write_text('{"step": 1}\n{"ste')
    folder.append("search.jsonl", {"step": 2})  # not glued onto what was torn
    assert folder.lines("search.jsonl") == [{"step": 1}, {"step": 2}]
    path.write_text('{"step": 1}\nnot json\n{"step": 3}\n')
    with pytest.raises(RunFolderError, match=r"`search\.jsonl` in .* has a line that is not JSON"):
        folder.lines("search.jsonl")


def test_seconds_are_summed_over_sessions(tmp_path):
    folder = RunFolder.create(tmp_path / "run", {"config": {}, "command": ""})
    for line in (
        {"stage": "train", "seconds": 1.5},
        {"search_step": 1, "step_seconds": 9.0},
        {"stage": "train", "seconds": 2.0},
    ):
        folder.append("times.jsonl", line)
    assert folder.seconds() == {"train": 3.5}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "is missing"),
        ("{", "can't be read"),
        ("[]", "is list"),
        (json.dumps({"_type": "B", "_version": 1}), r"is \('B', 1\)"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_told(tmp_path, content, what):
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    with pytest.raises(RunFolderError, match=f"`a.json`.*{what}"):
        read_json(tmp_path / "a.json", kind="A")

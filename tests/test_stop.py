"""A command that is asked to end, or that finds no room on the disk, says so in one line and leaves with its code."""

import errno
import signal

import pytest

from autoslim.cli import main


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("begun", [True, False])
def test_a_signal_in_any_stage_gives_its_code_and_how_to_go_on(number, code, begun, tmp_path, monkeypatch, capsys):
    def work(*args, **options):
        if begun:
            (tmp_path / "run.json").touch()
        signal.raise_signal(number)
        raise AssertionError("the signal was not heard")

    monkeypatch.setattr("autoslim.cli.run.run", work)
    monkeypatch.setattr("autoslim.cli.run.resume", work)
    before = signal.getsignal(signal.SIGTERM)
    for args in (["run", "digits", "--out", str(tmp_path)], ["run", "--resume", str(tmp_path)]):
        assert main(args) == code
        told = f"go on with autoslim run --resume {tmp_path}" if begun else "nothing was written yet"
        assert capsys.readouterr().err == f"autoslim: stopped; {told}\n"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("number", "told"), [(errno.ENOSPC, "No space"), (errno.EFBIG, "too large")])
def test_a_full_disk_is_told_in_one_line(number, told, tmp_path, monkeypatch, capsys):
    def work(*args, **options):
        raise OSError(number, f"{told} for this", "supernet.safetensors")

    monkeypatch.setattr("autoslim.cli.run.run", work)
    assert main(["run", "digits", "--out", str(tmp_path)]) == 2
    text = capsys.readouterr().err
    assert text.startswith(
        f"autoslim: [Errno {number}] {told} for this: 'supernet.safetensors'. Expected room to write."
    )
    assert text.count("\n") == 1


def test_another_error_of_the_system_is_not_hidden(tmp_path, monkeypatch):
    def work(*args, **options):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("autoslim.cli.run.run", work)
    with pytest.raises(OSError, match="Permission denied"):
        main(["run", "digits", "--out", str(tmp_path)])

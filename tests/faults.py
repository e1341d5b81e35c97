"""Disks that fail: the k-th write, sync or renaming of a program, once."""

import builtins
import contextlib
import io
import os


class Disk:
    """What happens on it is counted; number `failing`, from 0 on, fails.

    A failed write has written half of what it should.
    """

    def __init__(self, failing, error):
        self.failing, self.error, self.count = failing, error, 0

    def fails(self):
        self.count += 1
        return self.count - 1 == self.failing

    def raise_(self):
        raise OSError(self.error, os.strerror(self.error))


class File:
    """An open file on a disk."""

    def __init__(self, disk, file):
        self._disk, self._file = disk, file

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        self._file.__enter__()
        return self

    def __exit__(self, *exc):
        return self._file.__exit__(*exc)

    def write(self, data):
        if self._disk.fails():
            self._file.write(data[: len(data) // 2])
            self._disk.raise_()
        return self._file.write(data)


@contextlib.contextmanager
def disk(monkeypatch, folder, failing=-1, error=5):
    """What is done inside to the files of a folder is done to this disk."""
    each = Disk(failing, error)
    plain = {name: getattr(os, name) for name in ("fsync", "replace", "rename")}

    def opened(file, mode="r", *args, **kwargs):
        found = io_open(file, mode, *args, **kwargs)
        return File(each, found) if set(mode) & set("wax+") and inside(file) else found

    def inside(path):
        return not isinstance(path, int) and str(folder) in os.fspath(path)

    def counted(name):
        def call(first, *args, **kwargs):
            if (name == "fsync" or inside(first)) and each.fails():
                each.raise_()
            return plain[name](first, *args, **kwargs)

        return call

    io_open = io.open
    with monkeypatch.context() as patch:
        for module in (builtins, io):
            patch.setattr(module, "open", opened)
        for name in plain:
            patch.setattr(os, name, counted(name))
        yield each

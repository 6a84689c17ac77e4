"""A file that is damaged, or would show other files of this machine, is refused before its data is read."""

from __future__ import annotations

import hashlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from envs import DataError
from envs.hdf5 import open_hdf5, read_flags, read_vector, sha256_of_file


def write_whole(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["inner/rewards"] = np.arange(3000.0)
    return path


def refused(path: Path, message: str) -> None:
    with pytest.raises(DataError, match=message), open_hdf5(path):
        pytest.fail("the file was opened")


def test_a_whole_file_opens_with_its_own_links(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "whole.hdf5")
    with h5py.File(path, "a") as file:
        file["loop"] = file["/"]
        file["soft"] = h5py.SoftLink("/inner/rewards")
    with open_hdf5(path) as file:
        assert file["soft"][2] == 2


@pytest.mark.fault("a dataset whose data lies in other files")
def test_an_external_link_is_refused(tmp_path: Path) -> None:
    write_whole(tmp_path / "other.hdf5")
    with h5py.File(tmp_path / "evil.hdf5", "w") as file:
        file["rewards"] = h5py.ExternalLink("other.hdf5", "/inner/rewards")
    refused(tmp_path / "evil.hdf5", "'rewards' is an external link to 'other.hdf5'")


@pytest.mark.fault("a dataset whose data lies in other files")
def test_an_external_link_in_the_middle_of_a_path_is_refused(tmp_path: Path) -> None:
    write_whole(tmp_path / "other.hdf5")
    with h5py.File(tmp_path / "evil.hdf5", "w") as file:
        file["deep/door"] = h5py.ExternalLink("other.hdf5", "/inner")
        file["rewards"] = h5py.SoftLink("/deep/door/rewards")
    refused(tmp_path / "evil.hdf5", "'deep/door' is an external link")


@pytest.mark.fault("a dataset whose data lies in other files")
def test_external_storage_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(24))
    with h5py.File(tmp_path / "evil.hdf5", "w") as file:
        file.create_dataset("deep/rewards", (3,), "f8", external=[(str(tmp_path / "secret"), 0, 24)])
    refused(tmp_path / "evil.hdf5", "'deep/rewards' is stored outside, in '.*secret'")


@pytest.mark.fault("a dataset whose data lies in other files")
def test_a_virtual_dataset_is_refused(tmp_path: Path) -> None:
    layout = h5py.VirtualLayout((3000,), "f8")
    layout[:] = h5py.VirtualSource(write_whole(tmp_path / "other.hdf5"), "inner/rewards", shape=(3000,))
    with h5py.File(tmp_path / "evil.hdf5", "w") as file:
        file.create_virtual_dataset("rewards", layout)
    refused(tmp_path / "evil.hdf5", "'rewards' is a virtual dataset")


@pytest.mark.fault("a dataset that is cut short")
def test_a_truncated_file_is_to_be_downloaded_again(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "cut.hdf5")
    path.write_bytes(path.read_bytes()[:-1000])
    refused(path, "cut short or damaged: download or copy it again")


def test_what_is_no_hdf5_file_is_named_for_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "page.hdf5").write_text("<html>404 Not Found</html>")
    (tmp_path / "empty.hdf5").touch()
    refused(tmp_path / "page.hdf5", "not an HDF5 file .*<html>404")
    refused(tmp_path / "empty.hdf5", "is empty")
    refused(tmp_path / "none.hdf5", "there is no file at")
    refused(tmp_path, "which is a directory")


def test_a_flag_is_zero_or_one(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "flags.hdf5", "w") as file:
        file["floats"], file["odd"] = np.array([[0.0], [1.0]]), np.array([0.0, np.nan])
        assert read_flags(file, "floats").tolist() == [False, True]
        with pytest.raises(DataError, match="expected 0 or 1 in odd, got nan in row 1"):
            read_flags(file, "odd")


def test_a_vector_has_one_number_a_step(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "wide.hdf5", "w") as file:
        file["rewards"] = np.zeros((4, 2))
        with pytest.raises(DataError, match=r"one number a step in rewards, got shape \(4, 2\)"):
            read_vector(file, "rewards")


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"bytes")
    assert sha256_of_file(tmp_path / "file") == hashlib.sha256(b"bytes").hexdigest()

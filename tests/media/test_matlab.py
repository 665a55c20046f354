"""MATLAB files: what scipy wrote is read as scipy reads it, and damage is an error, never a crash."""

import random
import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from portraitgen.media.matlab import read_matrices

NAMES = ("coeff", "exp", "x")


def written(path: Path, *, compressed: bool, **matrices: np.ndarray) -> Path:
    savemat(path, matrices, do_compression=compressed)
    return path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i1", "u2", "i8"])
def test_matrices_are_those_that_scipy_reads(tmp_path, dtype, compressed):
    rng = np.random.default_rng(0)
    coeff = (100 * rng.normal(size=(5, 257))).astype(dtype)
    more = {"x": np.ones((1, 1), dtype), "exp": coeff[:2, :3].reshape(1, 2, 3), "other": coeff}
    path = written(tmp_path / "a.mat", compressed=compressed, coeff=coeff, **more)
    found, expected = read_matrices(path, NAMES), loadmat(path)
    assert found.keys() == set(NAMES)
    for name, matrix in found.items():
        np.testing.assert_array_equal(matrix, expected[name])
        assert matrix.dtype == expected[name].dtype


def test_what_else_a_file_holds_is_left_alone(tmp_path):
    path = tmp_path / "a.mat"
    savemat(path, {"s": {"a": 1}, "c": np.array([1, "b"], object), "t": "text", "coeff": np.eye(2)})
    np.testing.assert_array_equal(read_matrices(path, ("coeff",))["coeff"], np.eye(2))
    for name in ("s", "c", "t"):
        with pytest.raises(ValueError, match=f"{name} is no real numeric matrix"):
            read_matrices(path, (name,))
    savemat(path, {"z": np.array([[1j]])})
    with pytest.raises(ValueError, match="z is no real numeric matrix"):
        read_matrices(path, ("z",))


def test_big_endian_files_are_read(tmp_path):
    """As MATLAB wrote them on other machines, with the short form of an element."""

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack(">2I", kind, len(data)) + data.ljust(-(-len(data) // 8) * 8, b"\0")

    values = np.arange(6, dtype=">f4").reshape(2, 3)
    name = struct.pack(">I", 3 << 16 | 1) + b"exp\0"  # three bytes of type 1, in the tag
    shape = element(5, struct.pack(">2i", 2, 3))
    matrix = element(6, struct.pack(">2I", 7, 0)) + shape + name + element(7, values.tobytes(order="F"))
    path = tmp_path / "a.mat"
    path.write_bytes(b"MATLAB 5.0".ljust(124) + b"\1\0MI" + element(14, matrix))
    for found in (read_matrices(path, NAMES)["exp"], loadmat(path)["exp"]):
        np.testing.assert_array_equal(found, values)
    assert read_matrices(path, NAMES)["exp"].dtype == np.float32


@pytest.mark.parametrize("content", [b"", b"page", bytes(200), b"MATLAB 7.3".ljust(512) + b"\x89HDF"])
def test_what_is_none_is_named(tmp_path, content):
    path = tmp_path / "a.mat"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"no MATLAB file of level 5 .*savemat"):
        read_matrices(path, NAMES)


def test_a_file_that_ends_scipys_process_is_damaged(tmp_path):
    """Its values are of a type that there is not: scipy looks the type up beyond the end of its table."""
    path = written(tmp_path / "a.mat", compressed=False, coeff=np.zeros((5, 257), np.float32))
    content = bytearray(path.read_bytes())
    assert content[184] == 7, "the type of the values: single"
    content[184] = 98
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="coeff: dimensions or type of its values are damaged"):
        read_matrices(path, NAMES)


@pytest.mark.parametrize("compressed", [False, True])
def test_damage_is_an_error_or_another_matrix(tmp_path, compressed):
    path = written(tmp_path / "a.mat", compressed=compressed, coeff=np.ones((5, 257), np.float32))
    whole, rng = path.read_bytes(), random.Random(0)
    refused = 0
    for number in range(1500):
        content = bytearray(whole)
        if number % 3:
            for _ in range(rng.choice([1, 1, 3, 10])):
                content[rng.randrange(120, min(len(whole), 300))] = rng.randrange(256)
        else:
            content = content[: rng.randrange(len(content))]
        path.write_bytes(bytes(content))
        try:
            matrices = read_matrices(path, NAMES)
        except ValueError:
            refused += 1
        else:
            assert all(matrix.nbytes <= len(whole) * 40 for matrix in matrices.values())
    assert refused > 500


def test_little_that_inflates_to_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("portraitgen.media.matlab.MAX_INFLATED", 1 << 16)
    path = written(tmp_path / "a.mat", compressed=True, coeff=np.zeros((2000, 2000), np.float32))
    with pytest.raises(ValueError, match=r"compressed data .*hold more than"):
        read_matrices(path, NAMES)

"""Records of algorithms and their registry: what a record may contain, and how it is found by its names."""

from __future__ import annotations

import dataclasses

import pytest

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.algorithms import Algorithm, IteratedHash, Parameter, Security


def record(**changes) -> Algorithm:
    return dataclasses.replace(algorithms.get("sha256"), **{"name": "other", "aliases": (), **changes})


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        algorithms.get("sha256").digest_size = 31


@pytest.mark.parametrize("spelling", ["sha256", "SHA256", "sha-256", "SHA-256", "sha2-256", "SHA2_256"])
def test_lookup_by_hashlibs_name_or_an_alias(spelling):
    assert it.new(spelling, b"").name == "sha256"


def test_an_unknown_algorithm_names_those_there_are():
    suggested = r"unknown algorithm 'sha257': did you mean 'sha256' .*\(available: .*blake3.*sha256"
    with pytest.raises(ValueError, match=suggested):
        it.new("sha257")
    with pytest.raises(TypeError, match="named by a str, not int"):
        it.new(256)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "sha256"}, "'sha256' is taken by 'sha256'"),
        ({"name": "new_one", "aliases": ("sha-256",)}, "'sha-256' is taken by 'sha256'"),
        ({"aliases": ("a", "a")}, "repeats an alias"),
    ],
)
def test_duplicates_are_refused(scratch_registries, changes, message):
    with pytest.raises(ValueError, match=message):
        algorithms.register(record(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "SHA 256"}, "lower-case"),
        ({"aliases": ("SHA-999",)}, "must be lower case"),
        ({"digest_size": 0}, "must be positive"),
        ({"digest_size": 33}, "larger than the state"),
        ({"block_size": 63}, "multiple of 4"),
        ({"native": "hashlib.sha256"}, "package\\.module:name"),
        ({"keyed": "required"}, "parameter 'key'"),
        ({"parameters": (Parameter(name="p", type=int, doc=""),) * 2}, "duplicate parameter"),
    ],
)
def test_records_are_validated(changes, message):
    with pytest.raises(ValueError, match=message):
        record(**changes)


def test_a_construction_is_validated():
    construction = algorithms.get("sha256").construction
    assert isinstance(construction, IteratedHash)
    with pytest.raises(ValueError, match="package\\.module:name"):
        dataclasses.replace(construction, block="no colon")


def test_a_registered_record_is_everywhere(scratch_registries):
    algorithms.register(record(aliases=("another",)))
    assert it.new("ANOTHER", b"x").digest() == it.sha256(b"x").digest()
    assert "other" in it.algorithms_available
    assert it.hash_batch([b"x"], "other").shape == (1, 32)


def test_every_record_says_what_it_is(algorithm):
    assert algorithm.standard
    assert algorithm.security_note
    assert isinstance(algorithm.security, Security)
    assert (algorithm.collision_bits == 0) == (algorithm.security in (Security.BROKEN, Security.CHECKSUM))


def test_constructors_and_available_names(algorithm):
    assert algorithm.name in it.algorithms_available
    constructor = getattr(it, algorithm.name)
    assert constructor.__name__ == algorithm.name
    assert algorithm.standard in constructor.__doc__
    assert algorithm.name in dir(it)

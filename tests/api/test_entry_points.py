"""Every parameter of the package through which a caller's tensor, array or byte string comes in.

The tables below have a call for each. ``test_the_tables_are_complete`` reads the signatures of everything
public, so that a new parameter that could take a tensor fails it until it is listed, and the other tests then
try it with what must be refused and with what must be left as it was.
"""

from __future__ import annotations

import array
import hashlib
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.lthash import TensorChunks
from integrity_triton.trees import dm_verity, fs_verity
from support import driver_family, example, first_of, rows_as_bytes

# A call takes a function that makes an argument of a given shape, as uint8.
Make = Callable[..., Any]

KEY, NONCE = bytes(range(32)), bytes(16)


def module(x: Any) -> torch.nn.Module:
    made = torch.nn.Module()
    made.register_buffer("a", x)
    return made


def constructed(record: algorithms.Algorithm, x: Any) -> bytes:
    hasher = getattr(it, record.name)(x, **record.trial_parameters())
    return hasher.digest(*(() if record.digest_size else (32,)))


def updated(name: str, x: Any) -> bytes:
    hasher = it.new(name)
    hasher.update(x)
    return hasher.digest()


def chunks_of(x: Any) -> list[bytes]:
    return rows_as_bytes(TensorChunks.of("a", x).digests)


def sum_of(change: Callable[[it.LtHash], Any]) -> bytes:
    total = it.LtHash()
    change(total)
    return total.digest()


def appended(x: Any) -> bytes:
    tree = it.MerkleTree.of_messages([b"a"])
    tree.append([x])
    return tree.root


def replaced(x: Any) -> bytes:
    tree = it.MerkleTree.of_messages([b"a", b"b"])
    tree.update({1: x})
    return tree.root


def rechunked(x: Any) -> bytes:
    tree = it.MerkleTree.of_chunks(x, chunk_size=3)
    tree.update_chunks(x, range(len(tree)))
    return tree.root


def included(x: Any) -> bytes:
    tree = it.MerkleTree.of_messages([b"a", x])
    tree.head.verify_inclusion(x, 1, tree.inclusion_proof(1))
    return tree.root


def measured(x: Any) -> bytes:
    running = fs_verity.Running()
    running.update(x)
    return running.digest()


def no_hash_file(x: Any) -> None:
    with suppress(it.IntegrityError):
        dm_verity.verify(bytes(4096), x, IMAGE_TREE.root)


def tags_of(x: Any) -> bytes:
    return it.mac_tensors({"a": x}, KEY, nonce=NONCE)["a"]


def verified(tensors: Any) -> None:
    it.mac_tensors({"a": torch.zeros(8, dtype=torch.uint8)}, KEY, nonce=NONCE).verify(tensors, KEY)


def guarded(tensors: Any, **options: Any) -> list[bytes]:
    """The digests that a guard keeps of the tensors' chunks."""
    guard = it.models.Guard(tensors, start=False, **options)
    try:
        assert not guard.check()
        return [bytes(unit.digests) for unit in guard._passes.baseline.units]
    finally:
        guard.close()


IMAGE_TREE = dm_verity.format(bytes(4096))
ZEROS = torch.zeros(8, dtype=torch.uint8)
OPS = torch.ops.integrity_triton

# Messages: the calls with one message of bytes, which may be a tensor or bytes-like.
MESSAGES: dict[str, Callable[[Any], Any]] = {
    "new.data": lambda x: it.new("sha256", x).digest(),
    "new.data of a tree": lambda x: it.new("blake3", x).digest(),
    "new.data of a tuple": lambda x: it.new("tuplehash_128", (b"a", x)).digest(),
    "Hash.update.data": lambda x: updated("sha256", x),
    "Hash.update.data of a tuple": lambda x: updated("tuplehash_128", (b"a", x)),
    "hash_batch.messages": lambda x: rows_as_bytes(it.hash_batch([b"a", x], "sha256")),
    "hash_batch.messages of tuples": lambda x: rows_as_bytes(it.hash_batch([(), (b"a", x)], "tuplehash_128")),
    "hash_chunks.tensor": lambda x: rows_as_bytes(it.hash_chunks(x, "sha256", chunk_size=3)),
    "hkdf_batch.key_material": lambda x: rows_as_bytes(it.hkdf_batch([b"a", x], "sha256", length=5)),
    "pbkdf2_batch.passwords": lambda x: rows_as_bytes(
        it.pbkdf2_batch([b"a", x], "sha256", salt=b"salt", iterations=2)
    ),
    "LtHash.add.element": lambda x: sum_of(lambda total: total.add(x)),
    "LtHash.remove.element": lambda x: sum_of(lambda total: total.remove(x)),
    "LtHash.add_batch.elements": lambda x: sum_of(lambda total: total.add_batch([b"a", x])),
    "LtHash.remove_batch.elements": lambda x: sum_of(lambda total: total.remove_batch([b"a", x])),
    "LtHash.add_tensor.tensor": lambda x: sum_of(lambda total: total.add_tensor("a", x)),
    "LtHash.update_tensor.tensor": lambda x: sum_of(
        lambda total: total.update_tensor(TensorChunks.of("a", b"b"), x)
    ),
    "TensorChunks.of.tensor": chunks_of,
    "MerkleTree.of_messages.messages": lambda x: it.MerkleTree.of_messages([b"a", x]).root,
    "MerkleTree.of_chunks.data": lambda x: it.MerkleTree.of_chunks(x, chunk_size=3).root,
    "MerkleTree.append.messages": appended,
    "MerkleTree.update.messages": replaced,
    "MerkleTree.update_chunks.data": rechunked,
    "TreeHead.verify_inclusion.message": included,
    "measure.data": lambda x: fs_verity.measure(x).digest,
    "Running.update.data": measured,
    **{
        f"{record.name}.data": lambda x, record=record: constructed(record, x)
        for record in algorithms.all_algorithms()
        if not record.takes_tuples
    },
}
# Further calls, which take tensors only, or tensors of a certain shape.
TENSORS: dict[str, Callable[[Make], Any]] = {
    "hash_batch.messages in rows": lambda make: rows_as_bytes(it.hash_batch(make(3, 8), "sha256")),
    "hash_batch.out": lambda make: it.hash_batch([b"a"], "sha256", out=make(1, 32)),
    "MerkleTree.of_messages.messages in rows": lambda make: it.MerkleTree.of_messages(make(3, 8)).root,
    "MerkleTree.of_leaf_hashes.leaf_hashes": lambda make: it.MerkleTree.of_leaf_hashes(make(1, 32)).root,
    "format.data": lambda make: dm_verity.format(make(4096)).root,
    "verify.data": lambda make: dm_verity.verify(make(4096), IMAGE_TREE.hash_file, IMAGE_TREE.root),
    "verify.hash_file": lambda make: no_hash_file(make(8192)),
    "hash_chunks.out": lambda make: it.hash_chunks(b"abc", "sha256", chunk_size=2, out=make(2, 32)),
    "LtHash.add_batch.elements in rows": lambda make: it.LtHash().add_batch(make(3, 8)),
    "LtHash.remove_batch.elements in rows": lambda make: it.LtHash().remove_batch(make(3, 8)),
    "TensorChunks.digests": lambda make: TensorChunks("a", 8, 8, make(1, 32)).elements(),
    "LtHash.remove_tensor.chunks": lambda make: it.LtHash().remove_tensor(
        TensorChunks("a", 8, 8, make(1, 32))
    ),
    "LtHash.replace_tensor.old": lambda make: it.LtHash().replace_tensor(
        TensorChunks("a", 8, 8, make(1, 32)), TensorChunks.of("a", b"")
    ),
    "LtHash.replace_tensor.new_chunks": lambda make: it.LtHash().replace_tensor(
        TensorChunks.of("a", b""), TensorChunks("a", 8, 8, make(1, 32))
    ),
    "LtHash.update_tensor.old": lambda make: it.LtHash().update_tensor(
        TensorChunks("a", 8, 8, make(1, 32)), b""
    ),
    "ops.hash_batch.key": lambda make: OPS.hash_batch([ZEROS], "blake3", make(32)),
    "ops.hash_batch.key a message": lambda make: OPS.hash_batch([ZEROS], "blake3", make(1, 32)),
    "ops.hash_rows.key": lambda make: OPS.hash_rows(ZEROS.view(1, 8), "blake3", make(32)),
    "ops.hash_chunks.key": lambda make: OPS.hash_chunks(ZEROS, "blake3", 8, make(32)),
    "ops.hash_batch.values": lambda make: OPS.hash_batch(
        [ZEROS], "blake2b", values=[make(16)], names=["salt"]
    ),
    "ops.hash_rows.values": lambda make: OPS.hash_rows(
        ZEROS.view(1, 8), "blake2b", values=[make(16)], names=["salt"]
    ),
    "ops.hash_chunks.values": lambda make: OPS.hash_chunks(
        ZEROS, "blake2b", 8, values=[make(16)], names=["salt"]
    ),
    "ops.hash_batch.messages": lambda make: OPS.hash_batch([ZEROS, make(8)], "sha256"),
    "ops.hash_rows.rows": lambda make: OPS.hash_rows(make(3, 8), "sha256"),
    "ops.hash_chunks.data": lambda make: OPS.hash_chunks(make(8), "sha256", 3),
}
# Calls with a state dict, in which wrappers are replaced by their parts.
STATE_DICTS: dict[str, Callable[[Any], Any]] = {
    "mac_tensors.tensors": lambda x: it.mac_tensors({"a": x}, KEY, nonce=NONCE).names,
    "TensorTags.verify.tensors": lambda x: verified({"a": x}),
    "Manifest.build.source": lambda x: it.models.Manifest.build({"a": x}).root,
    "Manifest.build.source of a module": lambda x: it.models.Manifest.build(module(x)).root,
    "Manifest.from_module.module": lambda x: it.models.Manifest.from_module(module(x)).root,
    "Manifest.from_state_dict.state_dict": lambda x: it.models.Manifest.from_state_dict({"a": x}).root,
    "Manifest.verify.source": lambda x: it.models.Manifest.build({}).verify({"a": x}).ok,
    "Guard.source": lambda x: guarded({"a": x}),
    "Guard.source of a module": lambda x: guarded(module(x)),
}


def new_digest(name: str, **given: Any) -> bytes:
    length = () if it.algorithms.get(name).digest_size else (32,)
    return it.new(name, **given).digest(*length)


def batch_digests(name: str, **given: Any) -> list[bytes]:
    record = it.algorithms.get(name)
    messages: list[Any] = [(), ()] if record.takes_tuples else [b"", b""]
    return rows_as_bytes(it.hash_batch(messages, name, length=record.digest_size or 32, **given))


def checked_tag(tag: Any) -> None:
    it.new("blake3", b"a", key=KEY).verify(tag)


TAGS = it.mac_tensors({"a": ZEROS}, KEY, nonce=NONCE)
CRC = it.new("crc32", b"a").digest()
# Byte strings: a right value, and calls with this value in any form.
OCTETS: dict[str, tuple[bytes, Callable[[Any], Any]]] = {
    "new.key": (KEY, lambda x: it.new("blake3", b"a", key=x).digest()),
    "Hash.verify.tag": (it.blake3(b"a", key=KEY).digest(), checked_tag),
    "hash_batch.key": (KEY, lambda x: rows_as_bytes(it.hash_batch([b"a", b"b"], "blake3", key=x))),
    "hash_chunks.key": (
        KEY,
        lambda x: rows_as_bytes(it.hash_chunks(b"abc", "blake3", chunk_size=2, key=x)),
    ),
    "hash_file.key": (KEY, lambda x: it.hash_file(__file__, "blake3", key=x)),
    "hkdf_batch.salt": (
        KEY,
        lambda x: rows_as_bytes(it.hkdf_batch([b"a", b"b"], "sha256", length=5, salt=x)),
    ),
    "hkdf_batch.info": (
        KEY,
        lambda x: rows_as_bytes(it.hkdf_batch([b"a", b"b"], "sha256", length=5, info=x)),
    ),
    "pbkdf2_batch.salt": (
        KEY,
        lambda x: rows_as_bytes(it.pbkdf2_batch([b"a", b"b"], "sha256", salt=x, iterations=2)),
    ),
    "mac_tensors.key": (KEY, lambda x: it.mac_tensors({"a": ZEROS}, x, nonce=NONCE)["a"]),
    "mac_tensors.nonce": (NONCE, lambda x: it.mac_tensors({"a": ZEROS}, KEY, nonce=x)["a"]),
    "Guard.key": (KEY, lambda x: guarded({"a": ZEROS}, key=x)),
    "TensorTags.verify.key": (KEY, lambda x: TAGS.verify({"a": ZEROS}, x)),
    "LtHash.key": (KEY, lambda x: it.LtHash(key=x).add(b"a").digest()),
    "LtHash.from_digest.digest": (bytes(range(256)) * 8, lambda x: it.LtHash.from_digest(x).digest()),
    "crc_combine.first": (CRC, lambda x: it.crc_combine("crc32", x, CRC, 1)),
    "crc_combine.second": (CRC, lambda x: it.crc_combine("crc32", CRC, x, 1)),
    **{
        f"{what}.params {name} {parameter.name}": (
            example(parameter),
            lambda x, call=call, name=name, key=parameter.name: call(
                name, **{**it.algorithms.get(name).trial_parameters(), key: x}
            ),
        )
        for name in sorted(it.algorithms_available)
        for parameter in it.algorithms.get(name).parameters
        if parameter.type is bytes
        for what, call in (("new", new_digest), ("hash_batch", batch_digests))
    },
}
# Of these calls, those with two messages, where there may be a value for each.
PER_MESSAGE = ("hash_batch.key", "hash_chunks.key", "hkdf_batch.salt", "pbkdf2_batch.salt")
# Parameters with other contents, which no tensor or array can enter.
OTHERS = {
    "LtHash.device": "a torch device",
    "LtHash.from_digest.options": "the arguments of LtHash",
    "TensorTags.from_json.text": "JSON",
    "Manifest.from_json.data": "JSON",
    "measure.salt": "bytes, and nothing else",
    "measure_file.salt": "bytes, and nothing else",
    "Running.salt": "bytes, and nothing else",
    "Measurement.salt": "made by measure",
    "Measurement.root": "made by measure",
    "Measurement.merkle_tree": "made by measure",
    "format.salt": "bytes, and nothing else",
    "format_file.salt": "bytes, and nothing else",
    "verify.root": "bytes, and nothing else",
    "verify_files.root": "bytes, and nothing else",
    "Superblock.salt": "bytes, and nothing else",
    "Superblock.parse.data": "bytes, and nothing else",
    "HashTree.root": "made by format",
    "HashTree.blocks": "made by format",
    "TreeHead.root": "bytes, and nothing else",
    "TreeHead.verify_inclusion.proof": "bytes, and nothing else",
    "TreeHead.verify_consistency.proof": "bytes, and nothing else",
    "TensorEntry.digest": "bytes, and nothing else",
    "FileDigest.digest": "bytes, and nothing else",
    "FileDigest.salt": "bytes, and nothing else",
    "FileDigests.of.digests": "bytes or hexadecimal digits",
    "FileDigests.parse_list.data": "the text of a list, as bytes",
    "TensorDigests.digests": "bytes, and nothing else",
    "Guard.on_mismatch": "a function",
    "hash_chunks.params": "given to the same function as those of hash_batch",
    "hash_file.params": "given to new",
}
INTERNAL = ("Hash", "TensorTags")  # made by functions of the package, not by their constructors
MAY_BE_DATA = re.compile(r"\b(Any|object|Tensor|bytes|Module|TensorChunks)\b")


def public_callables() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function, class and method, except exceptions, with its name."""
    for namespace in (it, it.models, it.lthash, fs_verity, dm_verity):
        for name in namespace.__all__:
            thing = getattr(namespace, name)
            if not callable(thing) or (isinstance(thing, type) and issubclass(thing, BaseException)):
                continue
            if not isinstance(thing, type):
                yield name, thing
                continue
            if name not in INTERNAL:
                yield name, thing
            for method in vars(thing):
                if not method.startswith("_") and inspect.isroutine(getattr(thing, method)):
                    yield f"{name}.{method}", getattr(thing, method)


def test_the_tables_are_complete():
    """For each parameter that is left out here: say in OTHERS that no data comes in through it, or give the
    other tables a call, which must go through messages/tensors.py, from_caller.py or parameters.py."""
    wanted = set()
    for name, function in public_callables():
        for parameter in inspect.signature(function).parameters.values():
            plain = parameter.name in ("self", "progress")
            if not plain and MAY_BE_DATA.search(str(parameter.annotation)):
                wanted.add(f"{name}.{parameter.name}")
    for operator in dir(it.ops):
        if isinstance(getattr(it.ops, operator), torch._library.custom_ops.CustomOpDef):
            schema = getattr(torch.ops.integrity_triton, operator.removeprefix("_")).default._schema
            wanted |= {
                f"ops.{operator.removeprefix('_')}.{argument.name}"
                for argument in schema.arguments
                if "Tensor" in str(argument.type)
            }
    listed = {name.partition(" ")[0] for name in (*MESSAGES, *TENSORS, *STATE_DICTS, *OCTETS, *OTHERS)}
    constructors = {f"{name}.data" for name in it.algorithms_available}
    assert wanted - listed == set()
    assert listed - wanted - constructors == set()


def freed(*shape: int) -> torch.Tensor:
    x = torch.zeros(shape, dtype=torch.uint8)
    x.untyped_storage().resize_(0)
    return x


def shortened(*shape: int) -> torch.Tensor:
    x = torch.zeros(shape, dtype=torch.uint8)
    x.untyped_storage().resize_(x.nbytes - 1)
    return x


def shortened_behind_an_offset(*shape: int) -> torch.Tensor:
    size = torch.Size(shape).numel()
    base = torch.zeros(size + 8, dtype=torch.uint8)
    view = base[8:].view(shape)
    base.untyped_storage().resize_(size + 7)
    return view


def functional(*shape: int) -> torch.Tensor:
    return torch._to_functional_tensor(torch.zeros(shape, dtype=torch.uint8))


def on_meta(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.uint8, device="meta")


def wrapper(*shape: int) -> torch.Tensor:
    x = torch.zeros(shape, dtype=torch.uint8)
    return TwoTensor(x, x)


def parameter_of_a_wrapper(*shape: int) -> torch.Tensor:
    return torch.nn.Parameter(wrapper(*shape), requires_grad=False)


def uninitialised(*shape: int) -> torch.Tensor:
    return torch.nn.UninitializedBuffer(dtype=torch.uint8)


WITHOUT_MEMORY = {
    freed: "holds 0 bytes; its memory was freed",
    shortened: "its memory was freed",
    shortened_behind_an_offset: "its memory was freed",
    functional: "the tensor has no memory of its own",
    on_meta: "a meta tensor has no data|messages' device cpu, not on meta",
    uninitialised: "an UninitializedBuffer has no data|uint8 of shape",
}
WRAPPERS = {wrapper: "TwoTensor is a wrapper", parameter_of_a_wrapper: "TwoTensor is a wrapper"}

# What is not this package's to refuse: torch gives an operator the tensors in these, or computes only shapes,
# and has an error of its own for the state dict of a module that is not initialised.
ELSEWHERE = {
    **dict.fromkeys((functional, on_meta, uninitialised, *WRAPPERS), lambda name: name.startswith("ops.")),
    uninitialised: lambda name: name.startswith("ops.") or "module" in name,
}


def with_octets(size: int, call: Callable[[Any], Any]) -> Callable[[Make], Any]:
    return lambda make: call(make(size))


CALLS: dict[str, Callable[[Make], Any]] = {
    **{name: with_octets(8, call) for name, call in (MESSAGES | STATE_DICTS).items()},
    **TENSORS,
    **{name: with_octets(len(value), call) for name, (value, call) in OCTETS.items()},
}


def beginning(name: str) -> str:
    """How the error of a call begins, where there could be another tensor."""
    if name in STATE_DICTS:
        return "tensor 'a': "
    if name in OCTETS:
        parameter = (
            name.rsplit(" ", maxsplit=1)[-1]
            if ".params" in name
            else name.partition(" ")[0].rpartition(".")[2]
        )
        return rf"(\w+: )?{parameter}: "
    if name in MESSAGES and "batch" in name:
        return "message 1: "
    return "out" if name.endswith(".out") else ""


@pytest.mark.parametrize("make", [*WITHOUT_MEMORY, *WRAPPERS], ids=lambda make: make.__name__)
def test_a_tensor_without_bytes_of_its_own_is_refused(make):
    """Everywhere, with an error that names the tensor where there could be another."""
    says = (WITHOUT_MEMORY | WRAPPERS)[make]
    for name, call in CALLS.items():
        if (make in WRAPPERS and name in STATE_DICTS) or (make in ELSEWHERE and ELSEWHERE[make](name)):
            continue
        try:
            found = f"{name} takes it: {call(make)}"
        except (TypeError, ValueError) as error:
            found = f"{type(error).__name__}: {error}"
        kind = "TypeError" if make in WRAPPERS else "ValueError"
        assert re.match(f"{kind}: {beginning(name)}.*({says})", found), (name, found)


def test_strided_rows_end_with_the_last_row():
    base = torch.zeros(3, 16, dtype=torch.uint8)
    rows = base[:, :8]
    base.untyped_storage().resize_(40)  # up to the last row's last byte
    assert it.hash_batch(rows, "sha256").shape == (3, 32)
    base.untyped_storage().resize_(39)
    with pytest.raises(ValueError, match="end at byte 40 of its storage, which holds 39"):
        it.hash_batch(rows, "sha256")


def test_operators_with_meta_tensors():
    """They compute shapes, and never a digest of unset memory on another device."""
    meta = torch.zeros(2, 32, dtype=torch.uint8, device="meta")
    assert OPS.hash_rows(meta, "sha256").is_meta
    for call in (
        lambda: OPS.hash_batch([ZEROS, meta], "sha256"),
        lambda: OPS.hash_batch([ZEROS], "blake3", meta[0]),
        lambda: OPS.hash_rows(torch.zeros(2, 8), "blake3", meta),
        lambda: OPS.hash_chunks(ZEROS, "blake3", 8, meta[0]),
    ):
        with pytest.raises(ValueError, match="a meta tensor has no data to hash"):
            call()


# Byte strings


def as_strided_tensor(value: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(value), dtype=torch.uint8).repeat_interleave(2)[::2]


ONE_VALUE: dict[str, Callable[[bytes], Any]] = {
    "bytearray": bytearray,
    "memoryview": memoryview,
    "array": lambda value: array.array("B", value),
    "array of int32": lambda value: array.array("i", value),
    "NumPy": lambda value: np.frombuffer(value, np.uint8),
    "NumPy int8": lambda value: np.frombuffer(value, np.int8),
    "NumPy int32": lambda value: np.frombuffer(value, np.int32),
    "torch": lambda value: torch.frombuffer(bytearray(value), dtype=torch.uint8),
    "torch int8": lambda value: torch.frombuffer(bytearray(value), dtype=torch.int8),
    "torch int32": lambda value: torch.frombuffer(bytearray(value), dtype=torch.int32),
    "torch strided": as_strided_tensor,
    "torch parameter": lambda value: torch.nn.Parameter(as_strided_tensor(value), requires_grad=False),
}
NO_VALUE: dict[str, Callable[[bytes], Any]] = {
    "text": lambda value: "x" * len(value),
    "int": len,
    "array of floats": lambda value: array.array("f", value),
    "NumPy float32": lambda value: np.frombuffer(value, np.float32),
    "NumPy float16": lambda value: np.frombuffer(value, np.float16),
    "NumPy complex64": lambda value: np.zeros(len(value) // 8, np.complex64),
    "NumPy bool": lambda value: np.ones(len(value), np.bool_),
    "NumPy pointers": lambda value: np.array([None] * (len(value) // 8)),
    "NumPy pointers in fields": lambda value: np.zeros(len(value) // 8, [("a", "O")]),
    "NumPy strings": lambda value: np.array([value], f"S{len(value)}"),
    "NumPy records": lambda value: np.frombuffer(value, [("a", "i4")]),
    "NumPy datetime64": lambda value: np.zeros(len(value) // 8, "datetime64[s]"),
    "NumPy 0-D": lambda value: np.array(1, np.uint8),
    "NumPy 3-D": lambda value: np.frombuffer(value, np.uint8).reshape(1, 1, -1),
    "NumPy scalar": lambda value: np.uint8(1),
    "NumPy strided": lambda value: np.frombuffer(value, np.uint8).repeat(2)[::2],
    "torch float32": lambda value: torch.frombuffer(bytearray(value), dtype=torch.float32),
    "torch bfloat16": lambda value: torch.frombuffer(bytearray(value), dtype=torch.bfloat16),
    "torch complex64": lambda value: torch.zeros(len(value) // 8, dtype=torch.complex64),
    "torch bool": lambda value: torch.ones(len(value), dtype=torch.bool),
    "torch 0-D": lambda value: torch.tensor(1, dtype=torch.uint8),
    "torch 3-D": lambda value: as_strided_tensor(value).reshape(1, 1, -1),
    "torch sparse": lambda value: as_strided_tensor(value).to_sparse(),
}
TWO_VALUES: dict[str, Callable[[bytes, bytes], Any]] = {
    "list": lambda a, b: [a, b],
    "tuple": lambda a, b: (a, bytearray(b)),
    "list of arrays": lambda a, b: [np.frombuffer(a, np.uint8), b],
    "list of tensors": lambda a, b: [as_strided_tensor(a), as_strided_tensor(b)],
    "NumPy": lambda a, b: np.frombuffer(a + b, np.uint8).reshape(2, -1),
    "NumPy int16": lambda a, b: np.frombuffer(a + b, np.int16).reshape(2, -1),
    "memoryview": lambda a, b: memoryview(a + b).cast("B", (2, len(a))),
    "torch": lambda a, b: as_strided_tensor(a + b).reshape(2, -1),
    "torch int16": lambda a, b: torch.frombuffer(bytearray(a + b), dtype=torch.int16).reshape(2, -1),
    "torch strided": lambda a, b: as_strided_tensor(a + b).reshape(2, -1).t().contiguous().t(),
}
NO_TWO_VALUES: dict[str, Callable[[bytes, bytes], Any]] = {
    "list of rows": lambda a, b: [np.frombuffer(a, np.uint8).reshape(1, -1), b],
    "list of tensors of rows": lambda a, b: [a, as_strided_tensor(b).reshape(1, -1)],
    "list of floats": lambda a, b: [a, np.zeros(len(b) // 4, np.float32)],
    "list of tensors of floats": lambda a, b: [a, torch.zeros(len(b) // 4)],
    "list of pointers": lambda a, b: [a, np.array([None] * (len(b) // 8))],
    "NumPy float32": lambda a, b: np.zeros((2, len(a) // 4), np.float32),
    "NumPy pointers": lambda a, b: np.array([[None] * (len(a) // 8)] * 2),
    "NumPy strided": lambda a, b: np.zeros((len(a), 2), np.uint8).T,
    "torch float32": lambda a, b: torch.zeros((2, len(a) // 4)),
    "torch bool": lambda a, b: torch.zeros((2, len(a)), dtype=torch.bool),
}
# All algorithms' parameters are checked alike, so that one algorithm for each name of a parameter is enough
# where digests are computed.
SOME_OCTETS = {name: OCTETS[name] for name in {re.sub(r" \w+ ", " ", name): name for name in OCTETS}.values()}
MAY_BE_TWO = [
    *PER_MESSAGE,
    *(
        f"hash_batch.params {record.name} {parameter.name}"
        for record in algorithms.all_algorithms()
        for parameter in record.parameters
        if parameter.per_message
    ),
]


@pytest.mark.parametrize("form", ONE_VALUE)
def test_one_value_means_the_same_in_every_form(form):
    for name, (value, call) in SOME_OCTETS.items():
        if "int32" not in form or len(value) % 4 == 0:
            assert call(ONE_VALUE[form](value)) == call(value), name


@pytest.mark.parametrize("form", NO_VALUE)
def test_what_is_no_value(form):
    for name, (value, call) in OCTETS.items():
        whole = value * (-len(value) % 8 + 1)  # so that there is a whole number of wider items
        with pytest.raises((TypeError, ValueError, BufferError), match=parameter_of(name)):
            call(NO_VALUE[form](whole))


@pytest.mark.parametrize("form", TWO_VALUES)
def test_a_value_for_each_message_means_the_same_in_every_form(form):
    for name, (value, call) in SOME_OCTETS.items():
        other = value[::-1]
        given = TWO_VALUES[form](value, other)
        if name in MAY_BE_TWO and (len(value) % 2 == 0 or "int16" not in form):
            assert call(given) == [call(value)[0], call(other)[1]], name
        elif name not in MAY_BE_TWO:
            with pytest.raises((TypeError, ValueError), match=parameter_of(name)):
                call(given)


@pytest.mark.parametrize("form", NO_TWO_VALUES)
def test_what_is_no_value_for_each_message(form):
    for name in MAY_BE_TWO:
        value, call = OCTETS[name]
        with pytest.raises((TypeError, BufferError, ValueError), match=parameter_of(name)):
            call(NO_TWO_VALUES[form](value, value))


def parameter_of(name: str) -> str:
    """The name of a call's parameter, which its errors tell."""
    return beginning(name).removesuffix(": ").removeprefix(r"(\w+: )?")


def test_operators_take_keys_of_bytes():
    assert rows_as_bytes(OPS.hash_batch([ZEROS], "blake3", torch.zeros(8, dtype=torch.int32))) == [
        it.blake3(bytes(8), key=bytes(32)).digest()
    ]
    for key, error in (
        (torch.zeros(8), TypeError),
        (torch.zeros(1, 8), TypeError),
        (torch.zeros(1, 1, 32, dtype=torch.uint8), ValueError),
        (torch.zeros((), dtype=torch.uint8), ValueError),
    ):
        for operator, data in ((OPS.hash_batch, [ZEROS]), (OPS.hash_rows, ZEROS.view(1, 8))):
            with pytest.raises(error, match="key must be"):
                operator(data, "blake3", key)
        with pytest.raises(error, match="key must be"):
            OPS.hash_chunks(ZEROS, "blake3", 8, key)


# What is the caller's


def right(name: str) -> Make:
    """What a call takes, as tensors."""
    if name in OCTETS:
        return lambda size: torch.frombuffer(bytearray(OCTETS[name][0]), dtype=torch.uint8).clone()
    return lambda *shape: torch.zeros(shape, dtype=torch.uint8)


@pytest.mark.slow_if(lambda reader: reader == "opencl")
@pytest.mark.parametrize("reader", ["native", "opencl"])
def test_storages_can_be_resized_afterwards(reader):
    """Tensor.numpy() marks the storage for ever, which torch tells nobody until it is to be resized."""
    reason = {status.name: None if status.available else status.reason for status in it.backends()}[reader]
    if reason is not None:
        pytest.skip(f"absent: {reason}")
    ran = 0
    others = {f"{r.name}.data" for r in algorithms.all_algorithms() if r != first_of(r, driver_family)}
    names = [name for name in CALLS if name in SOME_OCTETS or (name not in OCTETS and name not in others)]
    for name in names:
        made = []

        def make(*shape: int, name: str = name, made: list[torch.Tensor] = made) -> torch.Tensor:
            made.append(right(name)(*shape))
            return made[-1]

        try:
            with it.use_backend(reader):
                CALLS[name](make)
        except it.BackendUnavailable:  # the backend does not have the algorithm
            continue
        for x in made:
            x.untyped_storage().resize_(0)
        ran += 1
    assert ran > len(names) // 2


def test_bytearrays_can_be_extended_afterwards():
    for call in MESSAGES.values():
        data = bytearray(8000)
        call(data)
        data.append(0)  # BufferError while anything views it


# Arrays


def arrays() -> dict[str, Any]:
    found: dict[str, Any] = {
        "datetime64": np.arange(3).astype("datetime64[D]"),
        "datetime64 0-D": np.array("2026-01-01", "datetime64[D]"),
        "datetime64 scalar": np.datetime64("2026-01-01"),
        "datetime64 without items": np.zeros((0, 3), "datetime64[D]"),
        "datetime64 2-D": np.arange(6).astype("datetime64[s]").reshape(2, 3),
        "timedelta64": np.arange(3).astype("timedelta64[s]"),
        "a field named O": np.ones(2, [("O", "i4"), ("b", "f8")]),
        "a field with a colon": np.ones(2, [("a:O", "i4")]),
        "a field of arrays": np.ones(2, [("a", "i4", (2, 3))]),
        "a record": np.rec.array(np.ones(2, [("O", "i4")])),
        "complex128": np.ones(3, complex),
        "big-endian": np.arange(3, dtype=">i4"),
        "longdouble": np.ones(2, np.longdouble),
        "strings": np.array([b"ab", b"c"]),
        "text": np.array(["ab", "c"]),
        "void": np.ones(2, "V7"),
        "float32 scalar": np.float32(1.5),
        "float16": np.ones(3, np.float16),
    }
    try:
        import ml_dtypes
    except ImportError:
        return found
    for kind in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4"):
        dtype = getattr(ml_dtypes, kind)
        found[kind] = np.arange(5).astype(dtype)
        found[f"{kind} scalar"] = dtype(1)
    return found


ARRAYS = arrays()


@pytest.mark.parametrize("kind", ARRAYS)
def test_what_hashlib_takes_is_taken(kind):
    data = ARRAYS[kind]
    plain = data.tobytes()
    assert it.sha256(data).digest() == hashlib.sha256(data).digest() == hashlib.sha256(plain).digest()
    for name, call in MESSAGES.items():
        if not name.endswith(".data"):  # all constructors are one function
            assert call(data) == call(plain), name
    assert rows_as_bytes(it.hash_batch([data] * 2, "sha256")) == [hashlib.sha256(plain).digest()] * 2


def test_ml_dtypes_are_here():
    pytest.importorskip("ml_dtypes", reason="absent: ml_dtypes")


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        (np.array([None, b"a"]), TypeError, "not of Python objects"),
        (np.zeros(2, [("a", "O")]), TypeError, "not of Python objects"),
        (np.zeros(2, [("a", "i4"), ("b", [("c", "O")])]), TypeError, "not of Python objects"),
        (np.zeros(2, [("a:b", "O")]), TypeError, "not of Python objects"),
        (np.zeros(4, "datetime64[D]")[::2], BufferError, "C-contiguous"),
        (np.zeros((2, 3), "datetime64[D]").T, BufferError, "C-contiguous"),
    ],
)
def test_arrays_that_are_no_messages(data, error, says):
    for call in MESSAGES.values():
        with pytest.raises(error, match=says):
            call(data)


def test_arrays_as_batches():
    """A 2-D array is a message in each row, as a tensor is."""
    rows = np.arange(12, dtype="<i4").reshape(3, 4)
    expected = rows_as_bytes(it.hash_batch(torch.from_numpy(rows.copy()), "sha256"))
    assert rows_as_bytes(it.hash_batch(rows, "sha256")) == expected
    assert rows_as_bytes(it.hash_batch(list(rows), "sha256")) == expected
    assert it.LtHash().add_batch(rows) == it.LtHash().add_batch(torch.from_numpy(rows.copy()))
    # An object array is a sequence of any objects.
    assert rows_as_bytes(it.hash_batch(np.array([b"a", b"bc"], object), "sha256")) == rows_as_bytes(
        it.hash_batch([b"a", b"bc"], "sha256")
    )
    for wrong in (rows[0], rows[None], np.array(1), np.array([b"a\0", b"b"])):
        for call in (
            lambda x: it.hash_batch(x, "sha256"),
            lambda x: it.hkdf_batch(x, "sha256", length=1),
            lambda x: it.pbkdf2_batch(x, "sha256", salt=b"", iterations=1),
            lambda x: it.LtHash().add_batch(x),
        ):
            with pytest.raises(ValueError, match=f"must be 2-D.*this one has {wrong.ndim} dim"):
                call(wrong)

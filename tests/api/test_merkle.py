"""Merkle trees, against the definitions of RFC 9162 over hashlib, and against pymerkle."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
import torch

import integrity_triton as it


def mth(leaves, name="sha256"):
    """The Merkle tree hash, RFC 9162, section 2.1.1, word for word."""
    if not leaves:
        return hashlib.new(name).digest()
    if len(leaves) == 1:
        return hashlib.new(name, b"\x00" + leaves[0]).digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.new(name, b"\x01" + mth(leaves[:k], name) + mth(leaves[k:], name)).digest()


def path(m, leaves):
    """RFC 9162, section 2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m, leaves, b=True):
    """RFC 9162, section 2.1.4.1."""
    if m == len(leaves):
        return [] if b else [mth(leaves)]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    if m <= k:
        return [*subproof(m, leaves[:k], b), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def messages_of(count, seed=0):
    made = random.Random(seed)
    return [made.randbytes(made.randrange(90)) for _ in range(count)]


SIZES = [*range(1, 20), 31, 32, 33]


@pytest.mark.parametrize("size", SIZES)
def test_roots_and_proofs_are_those_of_the_rfc(size):
    leaves = messages_of(size)
    tree = it.MerkleTree.of_messages(leaves)
    assert (len(tree), tree.root) == (size, mth(leaves))
    for i, leaf in enumerate(leaves):
        proof = tree.inclusion_proof(i)
        assert list(proof) == path(i, leaves)
        tree.head.verify_inclusion(leaf, i, proof)
    for old in range(size + 1):
        assert tree.head_of(old).root == mth(leaves[:old])
        proof = tree.consistency_proof(old)
        assert list(proof) == (subproof(old, leaves) if old else [])
        tree.head.verify_consistency(tree.head_of(old), proof)


def test_published_roots():
    """The empty tree and the roots of RFC 6962's test leaves, as Certificate Transparency's own tests have
    them (google/certificate-transparency, cpp/merkletree/merkle_tree_test.cc)."""
    leaves = [bytes.fromhex(x) for x in ("", "00", "10", "2021", "3031", "40414243")]
    leaves += [bytes(range(0x50, 0x58)), bytes(range(0x60, 0x70))]
    roots = (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    )
    for size, root in enumerate(roots, 1):
        assert it.MerkleTree.of_messages(leaves[:size]).root.hex() == root
    assert it.MerkleTree.of_messages([]).root.hex() == (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )


def test_against_pymerkle():
    pymerkle = pytest.importorskip("pymerkle", reason="absent: pymerkle, of the extra dev")
    leaves = messages_of(45, seed=1)
    theirs = pymerkle.InmemoryTree(algorithm="sha256")
    for leaf in leaves:
        theirs.append_entry(leaf)
    tree = it.MerkleTree.of_messages(leaves)
    for size in (1, 2, 7, 8, 44, 45):
        assert theirs.get_root(size) == tree.head_of(size).root
    for i in (0, 1, 31, 32, 44):
        proof = theirs.prove_inclusion(i + 1, 45)
        nodes = [bytes.fromhex(node) for node in proof.serialize()["path"]]
        assert nodes[1:] == list(tree.inclusion_proof(i))  # theirs begins with the leaf's own hash
        tree.head.verify_inclusion(leaves[i], i, nodes[1:])


@pytest.mark.parametrize("name", ["sha512", "blake3", "blake2b", "sha3_256", "sm3", "sha512_256"])
def test_other_hashes(name):
    leaves = [b"a", b"", b"ccc"]
    tree = it.MerkleTree.of_messages(leaves, name)

    def digest(data):
        return it.new(name, data, backend="native").digest()

    a, b, c = (digest(b"\0" + leaf) for leaf in leaves)
    assert tree.root == digest(b"\1" + digest(b"\1" + a + b) + c)
    tree.head.verify_inclusion(b"ccc", 2, tree.inclusion_proof(2))


def test_extendable_output():
    tree = it.MerkleTree.of_messages([b"a", b"b"], "shake_128", length=48)
    nodes = b"".join(hashlib.shake_128(b"\0" + x).digest(48) for x in (b"a", b"b"))
    assert tree.root == hashlib.shake_128(b"\1" + nodes).digest(48)
    tree.head.verify_inclusion(b"b", 1, tree.inclusion_proof(1))


@pytest.mark.device
def test_on_a_backend(backend):
    data = np.random.default_rng(0).integers(0, 256, 700, dtype=np.uint8)
    chunks = [data[i : i + 100].tobytes() for i in range(0, 700, 100)]
    for name in ("sha256", "blake3"):
        tree = it.MerkleTree.of_chunks(torch.from_numpy(data), name, chunk_size=100, backend=backend)
        assert tree.root == it.MerkleTree.of_messages(chunks, name, backend="native").root


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 1000, 1001])
def test_chunks_of_bytes_tensors_and_files(size, tmp_path):
    data = random.Random(size).randbytes(size)
    path = tmp_path / "data"
    path.write_bytes(data)
    chunks = [data[i : i + 100] for i in range(0, size, 100)]
    tensor = torch.frombuffer(bytearray(data) or bytearray(1), dtype=torch.uint8)[:size]
    trees = [
        it.MerkleTree.of_chunks(data, chunk_size=100),
        it.MerkleTree.of_chunks(tensor, chunk_size=100),
        it.MerkleTree.of_file(path, chunk_size=100),
    ]
    assert {tree.root for tree in trees} == {mth(chunks)}
    assert {len(tree) for tree in trees} == {len(chunks)}


def test_chunks_that_do_not_divide_what_is_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("integrity_triton.files._BUFFER_SIZE", 256)
    monkeypatch.setattr("integrity_triton.files._SMALL", 0)
    data = random.Random(3).randbytes(3000)
    path = tmp_path / "data"
    path.write_bytes(data)
    for size, most in ((100, 256), (256, 256), (7, 256), (700, 256), (1500, 256), (3000, 256), (5000, 256)):
        monkeypatch.setattr("integrity_triton.merkle.MOST_IN_BLOCK", most)
        seen = []
        tree = it.MerkleTree.of_file(path, chunk_size=size, progress=seen.append)
        assert tree.root == mth([data[i : i + size] for i in range(0, 3000, size)]), size
        assert sum(seen) == 3000


def test_groups_of_copies(monkeypatch):
    """Copies behind the prefix are made a group at a time, and a long message is hashed without one."""
    data = random.Random(4).randbytes(5000)
    leaves = [data[:3000], data[3000:3100], b"", data[3100:]]
    wanted = mth([data[i : i + 300] for i in range(0, 5000, 300)]), mth(leaves)
    for most in (1, 500, 1000, 4000):
        monkeypatch.setattr("integrity_triton.messages.batches.COPIES_SIZE", most)
        found = it.MerkleTree.of_chunks(data, chunk_size=300), it.MerkleTree.of_messages(leaves)
        assert tuple(tree.root for tree in found) == wanted


def test_appending():
    leaves = messages_of(60, seed=2)
    tree = it.MerkleTree.of_messages([])
    done = 0
    for count in (1, 1, 1, 2, 3, 0, 5, 8, 11, 1, 27):
        tree.append(leaves[done : done + count])
        done += count
        assert (len(tree), tree.root) == (done, mth(leaves[:done]))
        tree.head.verify_inclusion(leaves[0], 0, tree.inclusion_proof(0))


def test_updating_hashes_only_what_changed(monkeypatch):
    """The tree is that of the new leaves, and at most two nodes are hashed for each change and level."""
    from integrity_triton import eager, merkle

    hashed = []

    def counting(record, prefix, data, size, length, backend):
        hashed.append(-(-data.numel() // size))
        return eager.hash_prefixed(record, prefix, data, size, length, backend)

    monkeypatch.setattr(merkle, "hash_prefixed", counting)
    made = random.Random(5)
    for size in (1, 2, 3, 7, 8, 33, 1000):
        leaves = messages_of(size, seed=size)
        tree = it.MerkleTree.of_messages(leaves)
        for changes in (1, 2, min(size, 5), size):
            changed = made.sample(range(size), min(size, changes))
            for i in changed:
                leaves[i] = made.randbytes(20)
            hashed.clear()
            tree.update({i: leaves[i] for i in changed})
            assert tree.root == mth(leaves)
            assert sum(hashed) <= len(changed) * (size - 1).bit_length()
            for i in (0, size // 2, size - 1):
                tree.head.verify_inclusion(leaves[i], i, tree.inclusion_proof(i))


def test_updating_chunks():
    data = bytearray(random.Random(6).randbytes(1050))
    tree = it.MerkleTree.of_chunks(data, chunk_size=100)
    data[3] ^= 1
    data[1049] ^= 1
    tree.update_chunks(torch.frombuffer(data, dtype=torch.uint8), [10, 0, 0])
    assert tree.root == it.MerkleTree.of_chunks(data, chunk_size=100).root
    with pytest.raises(ValueError, match="over 1050 bytes, and the data has 1049"):
        tree.update_chunks(data[:-1], [0])
    with pytest.raises(ValueError, match="chunk 10 has 50 bytes, and the new one 100"):
        tree.update({10: bytes(100)})


def test_a_failed_update_changes_nothing(monkeypatch):
    leaves = messages_of(9)
    tree = it.MerkleTree.of_messages(leaves)
    before = tree.root
    calls = iter(range(100))

    def failing(*arguments):
        if next(calls) == 1:
            raise MemoryError
        return original(*arguments)

    from integrity_triton import merkle

    original = merkle.hash_prefixed
    monkeypatch.setattr(merkle, "hash_prefixed", failing)
    with pytest.raises(MemoryError):
        tree.update({2: b"new"})
    monkeypatch.undo()
    assert tree.root == before
    tree.head.verify_inclusion(leaves[2], 2, tree.inclusion_proof(2))


def test_differences():
    made = random.Random(7)
    for size in (1, 2, 5, 8, 100):
        leaves = messages_of(size, seed=size)
        tree = it.MerkleTree.of_messages(leaves)
        assert tree.diff(tree) == []
        for count in (1, 3):
            changed = sorted(made.sample(range(size), min(size, count)))
            others = [b"changed" * (1 + i) if i in changed else leaf for i, leaf in enumerate(leaves)]
            other = it.MerkleTree.of_messages(others)
            assert tree.diff(other) == other.diff(tree) == changed
            for more in (1, 2, 29):
                longer = it.MerkleTree.of_messages(others + messages_of(more, seed=9))
                wanted = [*changed, *range(size, size + more)]
                assert tree.diff(longer) == longer.diff(tree) == wanted
    assert it.MerkleTree.of_messages([]).diff(it.MerkleTree.of_messages([b"a"])) == [0]


def test_differences_compare_few_nodes(monkeypatch):
    leaves = messages_of(4096)
    tree = it.MerkleTree.of_messages(leaves)
    leaves[77] = leaves[3000] = b"changed"
    other = it.MerkleTree.of_messages(leaves)
    compared = []
    original = torch.Tensor.all

    def counting(x, *arguments):
        compared.append(len(x))
        return original(x, *arguments)

    monkeypatch.setattr(torch.Tensor, "all", counting)
    assert tree.diff(other) == [77, 3000]
    assert 0 < sum(compared) <= 2 * 2 * 13


def test_leaf_hashes_can_be_stored():
    tree = it.MerkleTree.of_messages(messages_of(13))
    again = it.MerkleTree.of_leaf_hashes(tree.leaf_hashes)
    assert again.head == tree.head
    tree.leaf_hashes.zero_()
    assert again.root == tree.root
    with pytest.raises(ValueError, match="fixed digest of 32 bytes"):
        it.MerkleTree.of_leaf_hashes(torch.zeros(2, 31, dtype=torch.uint8))
    with pytest.raises(TypeError, match="2-D and uint8"):
        it.MerkleTree.of_leaf_hashes(torch.zeros(2, 32))


# Proofs from somebody who is not trusted


def test_every_changed_inclusion_proof_is_refused():
    leaves = messages_of(13)
    tree = it.MerkleTree.of_messages(leaves)
    head = tree.head
    made = random.Random(8)
    for i, leaf in enumerate(leaves):
        proof = list(tree.inclusion_proof(i))
        wrong = [proof[:-1], proof[1:], [*proof, proof[0]], [*proof, bytes(32)], proof[::-1], []]
        for k in range(len(proof)):
            flipped = bytearray(proof[k])
            flipped[made.randrange(32)] ^= 1 << made.randrange(8)
            wrong.append([*proof[:k], bytes(flipped), *proof[k + 1 :]])
            wrong.append([*proof[:k], proof[k][:-1], *proof[k + 1 :]])
        for bad in wrong:
            with pytest.raises(it.IntegrityError):
                head.verify_inclusion(leaf, i, bad)
        for other in [*range(-1, i), *range(i + 1, 15), 1 << 70]:
            with pytest.raises(it.IntegrityError):
                head.verify_inclusion(leaf, other, proof)
        with pytest.raises(it.IntegrityError, match="is not leaf"):
            head.verify_inclusion(leaf + b"x", i, proof)
    # The second preimage that the prefixes prevent: two children are not a leaf.
    small = it.MerkleTree.of_messages([b"a", b"b"])
    children = b"".join(bytes(row) for row in small.leaf_hashes.numpy())
    with pytest.raises(it.IntegrityError):
        it.TreeHead("sha256", 1, small.root).verify_inclusion(children, 0, ())


def test_every_changed_consistency_proof_is_refused():
    leaves = messages_of(14)
    tree = it.MerkleTree.of_messages(leaves)
    for old in range(1, 14):
        before, proof = tree.head_of(old), list(tree.consistency_proof(old))
        wrong = [proof[:-1], proof[1:], [*proof, bytes(32)], []]
        for k in range(len(proof)):
            flipped = bytearray(proof[k])
            flipped[k] ^= 1
            wrong.append([*proof[:k], bytes(flipped), *proof[k + 1 :]])
        for bad in wrong:
            with pytest.raises(it.IntegrityError):
                tree.head.verify_consistency(before, bad)
        another = it.MerkleTree.of_messages([b"x", *leaves[1:old]]).head
        with pytest.raises(it.IntegrityError):
            tree.head.verify_consistency(another, proof)
        with pytest.raises(it.IntegrityError, match="cannot begin with one of"):
            before.verify_consistency(tree.head, proof)
    with pytest.raises(it.IntegrityError, match="different roots"):
        tree.head.verify_consistency(it.TreeHead("sha256", 14, bytes(32)), ())
    with pytest.raises(it.IntegrityError, match="without any node"):
        tree.head.verify_consistency(tree.head, [bytes(32)])
    with pytest.raises(it.IntegrityError, match="cannot begin with one of sha512"):
        tree.head.verify_consistency(it.MerkleTree.of_messages([b"a"], "sha512").head, ())


def test_random_proofs_end_with_the_error_of_a_wrong_proof():
    made = random.Random(9)
    for _ in range(300):
        head = it.TreeHead("sha256", made.choice([1, 2, 3, 5, 1 << 40, (1 << 64) - 1]), made.randbytes(32))
        proof = [made.randbytes(made.choice([32, 32, 32, 0, 31])) for _ in range(made.randrange(70))]
        with pytest.raises(it.IntegrityError):
            head.verify_inclusion(b"a", made.choice([-1, 0, 1, 4, 1 << 39, 1 << 64]), proof)
        old = it.TreeHead("sha256", made.choice([1, 2, 4, 1 << 39]), made.randbytes(32))
        with pytest.raises(it.IntegrityError):
            head.verify_consistency(old, proof)
    for bad in (None, b"proof", [None], ["00" * 32], [bytearray(32)], {1: 2}):
        with pytest.raises(TypeError):
            head.verify_inclusion(b"a", 0, bad)


def test_large_trees_need_no_leaves():
    """The path of a leaf beyond 2**32, and of one in a tree of the largest size: nodes are combined as RFC
    9162, section 2.1.3.2 says, here from the leaf upwards with known siblings."""
    for size, index in (((1 << 33) + 5, (1 << 32) + 9), ((1 << 64) - 1, (1 << 64) - 2)):
        found, proof = hashlib.sha256(b"\0leaf").digest(), []
        start, end, turns = 0, size, []
        while end - start > 1:  # from the root downwards, as the tree is defined
            middle = start + (1 << ((end - start - 1).bit_length() - 1))
            turns.append(index < middle)
            start, end = (start, middle) if index < middle else (middle, end)
        for level, left in enumerate(reversed(turns)):
            proof.append(hashlib.sha256(level.to_bytes(2, "big")).digest())
            pair = (found, proof[-1]) if left else (proof[-1], found)
            found = hashlib.sha256(b"\1" + b"".join(pair)).digest()
        head = it.TreeHead("sha256", size, found)
        head.verify_inclusion(b"leaf", index, proof)
        with pytest.raises(it.IntegrityError):
            head.verify_inclusion(b"leaf", index - 1, proof)


# Wrong use


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (it.MerkleTree, TypeError, "is made by"),
        (lambda: it.MerkleTree.of_messages(b"abc"), TypeError, r"pass \[message\]"),
        (lambda: it.MerkleTree.of_messages([b"a"], "sha1"), ValueError, "checksums=True"),
        (lambda: it.MerkleTree.of_messages([b"a"], "xxh3_64"), ValueError, "checksums=True"),
        (lambda: it.MerkleTree.of_messages([b"a"], "shake_128", length=16), ValueError, "too short"),
        (lambda: it.MerkleTree.of_messages([b"a"], "shake_128"), TypeError, "no default length"),
        (lambda: it.MerkleTree.of_messages([b"a"], "hmac_sha256"), ValueError, "needs a key"),
        (lambda: it.MerkleTree.of_messages([b"a"], "tuplehash_128"), ValueError, "tuples"),
        (lambda: it.MerkleTree.of_messages([b"a"], "sha257"), ValueError, "unknown algorithm"),
        (lambda: it.MerkleTree.of_chunks(b"a", chunk_size=0), ValueError, "chunk_size"),
        (lambda: it.MerkleTree.of_chunks(b"a", chunk_size=1.0), TypeError, "chunk_size"),
        (lambda: it.MerkleTree.of_messages([b"a"]).inclusion_proof(1), ValueError, "between 0 and 0"),
        (lambda: it.MerkleTree.of_messages([]).inclusion_proof(0), ValueError, "no leaf"),
        (lambda: it.MerkleTree.of_messages([b"a"]).consistency_proof(2), ValueError, "old_size"),
        (lambda: it.MerkleTree.of_messages([b"a"]).update({1: b""}), ValueError, "index of a leaf"),
        (lambda: it.MerkleTree.of_messages([b"a"]).update([b""]), TypeError, "must map"),
        (lambda: it.MerkleTree.of_messages([b"a"]).update_chunks(b"a", [0]), TypeError, "update"),
        (lambda: it.MerkleTree.of_chunks(b"a", chunk_size=1).append([b""]), TypeError, "no further"),
        (lambda: it.MerkleTree.of_messages([b"a"]).diff(b""), TypeError, "MerkleTree"),
        (lambda: it.TreeHead("sha256", 1, bytes(31)), ValueError, "32 bytes"),
        (lambda: it.TreeHead("sha256", 1 << 64, bytes(32)), ValueError, "size of a tree"),
        (lambda: it.TreeHead("sha256", 0, bytes(32)), ValueError, "without leaves"),
        (lambda: it.TreeHead("md5", 1, bytes(16)), ValueError, "checksums"),
        (lambda: it.TreeHead("sha256", 1, bytearray(32)), TypeError, "bytes"),
    ],
)
def test_wrong_use(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_trees_that_cannot_be_compared():
    tree = it.MerkleTree.of_chunks(b"abc", chunk_size=1)
    with pytest.raises(ValueError, match="sha256 cannot be compared with one of sha512"):
        tree.diff(it.MerkleTree.of_chunks(b"abc", "sha512", chunk_size=1))
    with pytest.raises(ValueError, match="chunks of 1 and 2 bytes"):
        tree.diff(it.MerkleTree.of_chunks(b"abc", chunk_size=2))


def test_checksums_find_accidents():
    tree = it.MerkleTree.of_messages([b"a", b"b"], "xxh3_64", checksums=True)
    other = it.MerkleTree.of_messages([b"a", b"c"], "xxh3_64", checksums=True)
    assert tree.diff(other) == [1]
    tree.head.verify_inclusion(b"b", 1, tree.inclusion_proof(1))

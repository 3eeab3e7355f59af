"""Merkle trees against a slow oracle: a tree built level by level, and proofs tried by brute force."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.trust.merkle import EMPTY, consistency_proof, continues, includes, inclusion_proof, leaf_hash, root_of

SIZES = st.integers(1, 70)


def leaves(count: int, other: str = "") -> list[bytes]:
    return [leaf_hash(f"{other}{i}".encode()) for i in range(count)]


def by_levels(hashes: list[bytes]) -> bytes:
    """Pairs of neighbours, level by level; an odd one goes up as it is. The same tree, built from below."""
    while len(hashes) > 1:
        pairs = [hashes[i : i + 2] for i in range(0, len(hashes), 2)]
        hashes = [hashlib.sha256(b"\x01" + b"".join(pair)).digest() if len(pair) == 2 else pair[0] for pair in pairs]
    return hashes[0]


def test_the_published_roots() -> None:
    """The test vectors of Certificate Transparency's own code (merkletree/rfc6962 and its reference trees)."""
    inputs = [
        bytes.fromhex(text)
        for text in (
            "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
        )
    ]  # fmt: skip
    roots = {
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    assert EMPTY.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    for size, root in roots.items():
        assert root_of([leaf_hash(content) for content in inputs[:size]]).hex() == root


@given(SIZES)
def test_the_root_is_that_of_the_tree_built_from_below(size: int) -> None:
    assert root_of(leaves(size)) == by_levels(leaves(size))


@given(size=SIZES, at=st.integers(0, 69), claimed=st.integers(-1, 71), sized=st.integers(0, 72))
def test_a_leaf_is_proven_at_its_own_place_alone(size: int, at: int, claimed: int, sized: int) -> None:
    at %= size
    all_of_them = leaves(size)
    proof, root = inclusion_proof(all_of_them, at), root_of(all_of_them)
    assert includes(all_of_them[at], at, size, proof, root)
    assert len(proof) <= (size - 1).bit_length()
    assert not includes(leaf_hash(b"another"), at, size, proof, root)
    if claimed != at:
        assert not includes(all_of_them[at], claimed, size, proof, root)
    assert not includes(all_of_them[at], at, size, [*proof, root], root)
    assert not proof or not includes(all_of_them[at], at, size, proof[:-1], root)
    # A proof that ends below the root of a larger tree shows nothing about it.
    assert not includes(all_of_them[0], 0, 2 * size + 1, inclusion_proof(all_of_them, 0), root)
    # A smaller or larger tree has another root; for the same root, a proof shows one index alone.
    other = leaves(sized, "x")
    assert not includes(all_of_them[at], at, size, proof, root_of(other))


@given(size=SIZES, older=st.integers(1, 70), changed=st.integers(0, 69))
def test_a_tree_continues_the_older_one_and_no_other(size: int, older: int, changed: int) -> None:
    older = min(older, size)
    new = leaves(size)
    proof, root = consistency_proof(new, older), root_of(new)
    assert continues(older, root_of(new[:older]), size, root, proof)
    forked = list(new[:older])
    forked[changed % older] = leaf_hash(b"changed")
    assert not continues(older, root_of(forked), size, root, proof)
    if older > 1:
        gone = [leaf for i, leaf in enumerate(new) if i != changed % older]
        for claimed in (older, older - 1):
            if claimed <= len(gone):
                lied = consistency_proof(gone, claimed)
                assert not continues(older, root_of(new[:older]), len(gone), root_of(gone), lied)
    assert not continues(older, root_of(new[:older]), size, root, [*proof, root])
    assert not continues(older, root_of(new[:older]), 2 * size + 1, root, proof)


@given(size=SIZES, older=st.integers(1, 70), place=st.integers(0, 20), bit=st.integers(0, 255))
def test_one_changed_bit_of_a_proof_is_seen(size: int, older: int, place: int, bit: int) -> None:
    older = min(older, size)
    new = leaves(size)
    for proof, holds in (
        (inclusion_proof(new, older - 1), lambda p: includes(new[older - 1], older - 1, size, p, root_of(new))),
        (consistency_proof(new, older), lambda p: continues(older, root_of(new[:older]), size, root_of(new), p)),
    ):
        if proof:
            changed = list(proof)
            at = place % len(changed)
            changed[at] = (int.from_bytes(changed[at], "big") ^ (1 << bit)).to_bytes(32, "big")
            assert not holds(changed)


def test_a_leaf_that_is_not_there_and_an_older_tree_that_is_larger_are_our_own_mistakes() -> None:
    with pytest.raises(IndexError):
        inclusion_proof(leaves(3), 3)
    for older in (0, 4):
        with pytest.raises(IndexError):
            consistency_proof(leaves(3), older)
        assert not continues(older, root_of(leaves(older)), 3, root_of(leaves(3)), [])

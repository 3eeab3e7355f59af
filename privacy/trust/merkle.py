"""Merkle trees as in RFC 6962, section 2.1: one hash for a list that only grows, and short proofs about it.

A root commits to every leaf and their order. An inclusion proof shows with about log2(n) hashes that a leaf is the
i-th of n. A consistency proof shows that the first m of n leaves are those of an older root: nothing was changed or
taken out, leaves were only added. Hashes are SHA-256, 32 bytes. A leaf is hashed after a zero byte and an inner node
after a one byte, so that neither passes for the other.

Proofs are checked by the algorithms of RFC 9162, sections 2.1.3.2 and 2.1.4.2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

EMPTY = hashlib.sha256(b"").digest()


def leaf_hash(content: bytes) -> bytes:
    """Return the hash of one leaf."""
    return hashlib.sha256(b"\x00" + content).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Return the root over the hashes of leaves, in order."""
    if not leaves:
        return EMPTY
    if len(leaves) == 1:
        return leaves[0]
    half = _split(len(leaves))
    return _node(root_of(leaves[:half]), root_of(leaves[half:]))


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the proof that ``leaves[index]`` is in the tree over all ``leaves``; IndexError if there is no such."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index} of {len(leaves)}")
    if len(leaves) == 1:
        return []
    half = _split(len(leaves))
    if index < half:
        return [*inclusion_proof(leaves[:half], index), root_of(leaves[half:])]
    return [*inclusion_proof(leaves[half:], index - half), root_of(leaves[:half])]


def consistency_proof(leaves: Sequence[bytes], older: int) -> list[bytes]:
    """Return the proof that the tree over ``leaves`` continues the one over its first ``older`` leaves.

    IndexError unless 0 < older <= len(leaves).
    """
    if not 0 < older <= len(leaves):
        raise IndexError(f"an older tree of {older} in one of {len(leaves)}")
    return _subproof(leaves, older, whole=True)


def includes(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Return whether ``proof`` shows that ``leaf`` (a hash) is number ``index`` of the ``size`` leaves of ``root``."""
    if not 0 <= index < size:
        return False
    number, last, found = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if number & 1 or number == last:
            found = _node(sibling, found)
            while number and not number & 1:
                number, last = number >> 1, last >> 1
        else:
            found = _node(found, sibling)
        number, last = number >> 1, last >> 1
    return last == 0 and found == root


def continues(older: int, older_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    """Return whether ``proof`` shows that ``root`` (``size`` leaves) begins with the ``older`` leaves of the other."""
    if older == size:
        return not proof and older_root == root
    if not 0 < older < size or not proof:
        return False
    path = [older_root, *proof] if older & (older - 1) == 0 else list(proof)
    number, last = older - 1, size - 1
    while number & 1:
        number, last = number >> 1, last >> 1
    first = second = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if number & 1 or number == last:
            first, second = _node(sibling, first), _node(sibling, second)
            while number and not number & 1:
                number, last = number >> 1, last >> 1
        else:
            second = _node(second, sibling)
        number, last = number >> 1, last >> 1
    return last == 0 and first == older_root and second == root


def _subproof(leaves: Sequence[bytes], older: int, *, whole: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962: ``whole`` says that these leaves are all of the older tree, whose root is known."""
    if older == len(leaves):
        return [] if whole else [root_of(leaves)]
    half = _split(len(leaves))
    if older <= half:
        return [*_subproof(leaves[:half], older, whole=whole), root_of(leaves[half:])]
    return [*_subproof(leaves[half:], older - half, whole=False), root_of(leaves[:half])]


def _split(size: int) -> int:
    """Return the largest power of two below ``size``."""
    return 1 << (size - 1).bit_length() - 1


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()

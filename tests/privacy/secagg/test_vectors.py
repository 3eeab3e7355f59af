"""Known answers of the protocol: our code gives them, and so does a second implementation of its arithmetic."""

import hashlib
import json
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tests.builders.secagg_vectors import GONE, SIZE, transcript

FROZEN = json.loads((Path(__file__).parents[2] / "golden" / "secagg_vectors.json").read_text())
THERE = [i for i in range(SIZE) if i != GONE]


def test_the_code_gives_the_frozen_values() -> None:
    assert json.loads(json.dumps(transcript())) == FROZEN


# A second implementation of the arithmetic. It shares nothing with privacy/secagg but the primitives of the library.


def digest(label: str, *parts: bytes) -> bytes:
    text = f"fedkt3d:secagg/{label}:v1\n".encode()
    return hashlib.sha256(text + b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()


def two(number: int) -> bytes:
    return number.to_bytes(2, "big")


def hexed(key: str, i: int) -> bytes:
    return bytes.fromhex(FROZEN["sites"][i][key])


def adverts() -> dict[int, bytes]:
    """Each site's signed keys out of the message: tag, set-up, round, count, then index, length and bytes of each."""
    data, found, at = bytes.fromhex(FROZEN["adverts"]), {}, 1 + 32 + 4
    count, at = int.from_bytes(data[at : at + 2], "big"), at + 2
    for _ in range(count):
        site, length = int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : at + 6], "big")
        found[site], at = data[at + 6 : at + 6 + length], at + 6 + length
    assert at == len(data)
    return found


def mask(seed: bytes) -> np.ndarray:
    stream = Cipher(algorithms.AES256(seed), modes.CTR(bytes(16))).encryptor().update(bytes(4 * 5))
    return np.frombuffer(stream, dtype="<u4")


def derived(secret: bytes, label: str, *sites: int) -> bytes:
    info = digest(f"key {label}", bytes.fromhex(FROZEN["step_context"]), *map(two, sites))
    return HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(secret)


def pair_seed(i: int, j: int) -> bytes:
    public = x25519.X25519PrivateKey.from_private_bytes(hexed("mask_key", j)).public_key()
    shared = x25519.X25519PrivateKey.from_private_bytes(hexed("mask_key", i)).exchange(public)
    return derived(shared, "pair", *sorted((i, j)))


def test_contexts_follow_from_terms_roster_keys_and_model() -> None:
    names = [site["name"].encode() for site in FROZEN["sites"]]
    roster = digest("roster", b"0" * 32, *names, *(hexed("identity_public", i) for i in range(SIZE)))
    setup = digest("setup", bytes.fromhex(FROZEN["terms"]), roster)
    deal = digest("deal", setup, *(adverts()[i] for i in range(SIZE)))
    dealers = b"".join(map(two, range(SIZE)))
    step = digest("step", deal, dealers, two(0), (1).to_bytes(4, "big"), bytes.fromhex(FROZEN["model"]))
    found = [FROZEN[key] for key in ("roster", "setup_context", "deal_context", "step_context")]
    assert found == [roster.hex(), setup.hex(), deal.hex(), step.hex()]


def test_masked_vectors_and_their_sum_follow_from_the_secrets() -> None:
    total = np.zeros(5, dtype=np.uint32)
    for i in THERE:
        masked = np.array(FROZEN["inputs"][str(i)], dtype=np.uint32)
        total += masked
        masked = masked + mask(derived(hexed("seed", i), "self", i))
        for j in range(SIZE):
            if i < j:
                masked = masked + mask(pair_seed(i, j))
            if i > j:
                masked = masked - mask(pair_seed(i, j))
        assert masked.tolist() == FROZEN["masked_vectors"][str(i)]
    assert total.tolist() == FROZEN["total"]


def test_what_a_site_signs_with_its_vector_follows_too() -> None:
    """Signature over label, context and body: site, step, hash of the masked vector, commitment to the plain one."""
    context = bytes.fromhex(FROZEN["step_context"])
    for i in THERE:
        masked = np.array(FROZEN["masked_vectors"][str(i)], dtype="<u4").tobytes()
        hashed = hashlib.sha256(b"fedkt3d:secagg/masked:v1\n" + b"\x04" + masked).digest()
        plain = np.array(FROZEN["inputs"][str(i)], dtype="<u4").tobytes()
        commitment = digest("input", context, two(i), hexed("salt", i), plain)
        message = bytes.fromhex(FROZEN["masked"][str(i)])
        body, signature = message[:-64], message[-64:]
        assert body[1:] == two(i) + two(0) + hashed + commitment
        key = ed25519.Ed25519PrivateKey.from_private_bytes(hexed("identity", i))
        assert key.public_key().public_bytes_raw() == hexed("identity_public", i)
        assert key.sign(digest("signed input", context, body)) == signature

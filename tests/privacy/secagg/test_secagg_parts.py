"""Parts of secure aggregation: Shamir, masks, layouts and replay state, each against a slow or known answer."""

import os
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.secagg import masks
from privacy.secagg.context import SumTerms, digest
from privacy.secagg.errors import SecAggError
from privacy.secagg.masks import RINGS, apply_masks, is_ring_vector
from privacy.secagg.messages import (
    Advert,
    Adverts,
    Confirmation,
    Confirmations,
    Deal,
    Inbox,
    Masked,
    Reveal,
    Survivors,
)
from privacy.secagg.replay import FileReplay, MemoryReplay
from privacy.secagg.shamir import PRIME, is_share, join, split
from shared_model.core.errors import InputError
from shared_model.core.fields import MessageError
from tests.builders.secagg_rounds import MODEL, Federation, name


@given(secret=st.binary(min_size=32, max_size=32), sites=st.integers(1, 9), data=st.data())
def test_any_threshold_shares_give_the_secret_back_and_one_less_do_not(secret, sites, data):
    threshold = data.draw(st.integers(1, sites))
    shares = split(secret, threshold, range(1, sites + 1))
    for chosen in list(combinations(shares, threshold))[:10]:
        assert join({point: shares[point] for point in chosen}) == secret
    if threshold > 1:
        few = dict(list(shares.items())[: threshold - 1])
        with pytest.raises(ValueError, match="belong"):
            join(few)


def test_shares_are_field_elements_in_one_form():
    assert all(is_share(share) for share in split(bytes(32), 3, [1, 2, 3]).values())
    assert is_share((PRIME - 1).to_bytes(66, "big"))
    assert not is_share(PRIME.to_bytes(66, "big"))
    assert not is_share(bytes(65))


@pytest.mark.parametrize(
    ("secret", "threshold", "points"), [(bytes(31), 1, [1]), (bytes(32), 3, [1, 2]), (bytes(32), 1, [0])]
)
def test_senseless_sharing_is_refused(secret, threshold, points):
    with pytest.raises(ValueError, match="expected"):
        split(secret, threshold, points)


@settings(max_examples=40)
@given(
    bits=st.sampled_from((16, 32, 64)),
    length=st.integers(1, 3000),
    signs=st.lists(st.sampled_from((1, -1)), min_size=1, max_size=4),
    threads=st.integers(1, 3),
)
def test_masks_equal_the_whole_key_stream_added_at_once(bits, length, signs, threads):
    seeds = [os.urandom(32) for _ in signs]
    vector = np.random.default_rng(0).integers(0, 2**bits, size=length, dtype=RINGS[bits])
    expected = vector.copy()
    for seed, sign in zip(seeds, signs, strict=True):
        stream = Cipher(algorithms.AES256(seed), modes.CTR(bytes(16))).encryptor().update(bytes(vector.nbytes))
        expected += np.frombuffer(stream, RINGS[bits]) * RINGS[bits].type(sign % 2**bits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "_CHUNK_BYTES", 1024)
        apply_masks(vector, list(zip(seeds, signs, strict=True)), threads)
    assert (vector == expected).all()


def test_a_ring_vector_is_flat_contiguous_and_of_its_ring():
    vector = np.zeros(10, np.uint16)
    assert is_ring_vector(vector, 16, 10)
    for other in (vector[::2], vector.astype(np.int16), vector.reshape(2, 5), vector.astype(np.uint32), vector[:9]):
        assert not is_ring_vector(other, 16, 10)
    assert not is_ring_vector(np.zeros(20, np.uint16)[::2], 16, 10)


def test_no_two_lists_of_parts_hash_alike():
    assert digest("a", b"xy", b"z") != digest("a", b"x", b"yz")
    assert digest("a", b"x", b"") != digest("a", b"x")
    assert digest("a", b"x") != digest("b", b"x")
    assert digest("a", np.arange(3, dtype=np.uint16).data.cast("B")) == digest("a", b"\0\0\1\0\2\0")


def conversation() -> list:
    """One message of each kind, from a real step."""
    federation = Federation(size=3, steps=2)
    adverts = federation.exchange_keys()
    deals = federation.exchange_shares(adverts)
    step = federation.server.open_step(1, MODEL)
    inbox = federation.server.inbox(name(0), step)
    vectors = federation.inputs(0)
    for i, site in federation.sites.items():
        site.open_step(federation.server.inbox(name(i), step), MODEL)
        masked, vector, _ = site.mask(vectors[i])
        step.add_masked(name(i), masked, vector)
    survivors = step.survivors()
    confirmation = federation.sites[0].confirm(survivors)
    step.add_confirmation(name(0), confirmation)
    for i in (1, 2):
        step.add_confirmation(name(i), federation.sites[i].confirm(survivors))
    confirmations = step.confirmations()
    reveal = federation.sites[0].reveal(confirmations)
    advert = Advert.from_bytes(adverts.adverts[0])
    return [
        federation.terms, advert, adverts, deals[0], inbox, masked, survivors, confirmation, confirmations, reveal
    ]  # fmt: skip


CONVERSATION = conversation()
KINDS = (SumTerms, Advert, Adverts, Deal, Inbox, Masked, Survivors, Confirmation, Confirmations, Reveal)


@pytest.mark.parametrize("message", CONVERSATION, ids=lambda m: type(m).__name__)
def test_messages_round_trip_and_no_other_kind_reads_them(message):
    data = message.to_bytes()
    assert type(message).from_bytes(data) == message
    for kind in KINDS:
        if kind is not type(message):
            with pytest.raises(MessageError):
                kind.from_bytes(data)


@settings(max_examples=200)
@given(which=st.sampled_from(range(len(KINDS))), data=st.data())
def test_changed_bytes_are_refused_or_are_another_message(which, data):
    message = CONVERSATION[which]
    whole = bytearray(message.to_bytes())
    change = data.draw(st.sampled_from(("cut", "append", "flip")))
    if change == "cut":
        whole = whole[: data.draw(st.integers(0, len(whole) - 1))]
    elif change == "append":
        whole += data.draw(st.binary(min_size=1, max_size=5))
    else:
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        read = type(message).from_bytes(bytes(whole))
    except MessageError:
        return
    assert change == "flip"
    assert read != message
    assert read.to_bytes() == bytes(whole)


@settings(max_examples=200)
@given(junk=st.binary(max_size=200), kind=st.sampled_from(KINDS))
def test_junk_is_refused_without_a_crash(junk, kind):
    for content in (junk, bytes([kind.TAG]) + junk):
        try:
            read = kind.from_bytes(content)
        except MessageError:
            continue
        assert read.to_bytes() == content


@pytest.mark.parametrize(
    "changes",
    [
        {"site": -1},
        {"site": 2**16},
        {"site": True},
        {"site": "0"},
        {"share_key": b"short"},
        {"share_key": bytearray(32)},
        {"mask_keys": ()},
        {"mask_keys": (bytes(32),) * 65},
        {"signature": None},
    ],
)
def test_values_that_do_not_fit_are_not_written(changes):
    with pytest.raises(MessageError):
        replace(CONVERSATION[1], **changes).to_bytes()


def test_a_message_beyond_all_bounds_is_not_read():
    with pytest.raises(MessageError):
        Adverts.from_bytes(bytes(16_000_001))
    with pytest.raises(MessageError):
        Adverts.from_bytes(bytearray(100))  # type: ignore[arg-type]


SESSION, OTHER = b"a" * 16, b"b" * 16


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secagg.replay"


@given(st.lists(st.tuples(st.sampled_from("br"), st.integers(0, 3), st.integers(0, 2)), max_size=12))
def test_a_file_remembers_what_memory_would_across_restarts(tmp_path_factory, calls):
    path = tmp_path_factory.mktemp("replay") / "r"
    memory = MemoryReplay()

    def outcome(replay, kind, first, second):
        try:
            if kind == "b":
                replay.begin(bytes([first]) * 32)
            else:
                replay.reveal(SESSION, first, bytes([second]) * 32)
        except SecAggError as error:
            return error.code
        return None

    for call in calls:
        with FileReplay(path) as replay:
            assert outcome(replay, *call) == outcome(memory, *call)


def test_sessions_do_not_hinder_one_another(path):
    with FileReplay(path) as replay:
        replay.reveal(SESSION, 5, b"x" * 32)
        replay.reveal(OTHER, 1, b"y" * 32)
        with pytest.raises(SecAggError):
            replay.check(SESSION, 4)
        replay.check(OTHER, 1)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_line_cut_off_by_a_crash_is_dropped_and_one_damaged_line_stops_the_site(path):
    with FileReplay(path) as replay:
        replay.begin(b"a" * 32)
        replay.begin(b"b" * 32)
    whole = path.read_bytes()
    for cut in range(len(whole) // 2 + 1, len(whole)):
        path.write_bytes(whole[:cut])
        with FileReplay(path) as replay:
            with pytest.raises(SecAggError):
                replay.begin(b"a" * 32)
            replay.begin(b"b" * 32)
        assert path.read_bytes() == whole
    changed = bytearray(whole)
    changed[20] = ord("0") + (changed[20] == ord("0"))
    path.write_bytes(changed)
    with pytest.raises(InputError, match="line 1 is damaged"):
        FileReplay(path)
    assert path.read_bytes() == bytes(changed)


def test_two_processes_do_not_share_a_file(path):
    with FileReplay(path):
        code = (
            f"from pathlib import Path; from privacy.secagg.replay import FileReplay; FileReplay(Path({str(path)!r}))"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "another process of this site uses it" in found.stderr
    FileReplay(path).close()


def test_a_full_disk_reveals_nothing_and_leaves_the_file_whole(path, monkeypatch):
    with FileReplay(path) as replay:
        replay.begin(b"a" * 32)
        true_write = os.write
        monkeypatch.setattr(os, "write", lambda fd, data: true_write(fd, data[:10]))
        with pytest.raises(InputError, match="nothing was revealed"):
            replay.begin(b"b" * 32)
        monkeypatch.undo()
        replay.begin(b"b" * 32)
    assert path.read_bytes().count(b"\n") == 2
    FileReplay(path).close()


def test_nothing_is_revealed_when_it_cannot_be_recorded(path, monkeypatch):
    federation = Federation(size=3)
    replay = FileReplay(path)
    federation.sites[0] = federation.site(0, replay=replay)
    federation.set_up()
    confirmations = federation.confirm(federation.mask(federation.inputs(0)))
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError):
        federation.sites[0].reveal(confirmations)
    monkeypatch.undo()
    replay.close()


def test_a_folder_in_place_of_the_file_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot be opened"):
        FileReplay(tmp_path)

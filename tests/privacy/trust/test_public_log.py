"""The documents of the transparency log: heads by a certified key alone, and receipts that prove what they hold."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.trust import certificates, signed
from privacy.trust.merkle import consistency_proof, inclusion_proof, leaf_hash, root_of
from privacy.trust.public_log import LogError, Proven, Receipt, RoundEntry, StatisticsEntry, TreeHead, certify
from shared_model.core.errors import InputError
from tests.builders.consortium import Consortium

RUN = "c" * 32
CONSORTIUM = Consortium()
KEY = certificates.new_signing_key()
CERTIFIED = certify(signed.private_key(KEY).public_key(), CONSORTIUM.id, CONSORTIUM.signer_key)


def entry(number: int, **changes: object) -> RoundEntry:
    values = {"run": RUN, "round": number, "attempt": 1, "sites": ("a", "b"), "before": "1" * 64, "after": "2" * 64}
    return RoundEntry(**{**values, "sum": "3" * 64, **changes})  # type: ignore[arg-type]


def lines(count: int) -> list[dict[str, object]]:
    return [{**entry(i + 1).to_plain(), "at": "2026-01-01T00:00:00+00:00"} for i in range(count)]


def hashes(of: list[dict[str, object]]) -> list[bytes]:
    return [leaf_hash(signed.canonical(line)) for line in of]


def head(leaves: list[bytes], key: bytes = KEY, certified: bytes = CERTIFIED) -> bytes:
    made = TreeHead(consortium=CONSORTIUM.id, size=len(leaves), root=root_of(leaves).hex())
    return made.to_signed(key, certified)


def read(content: bytes) -> TreeHead:
    return TreeHead.from_signed(content, CONSORTIUM.signer_public, CONSORTIUM.id)


def receipt(logged: list[dict[str, object]], since: int) -> Receipt:
    leaves = hashes(logged)
    rounds = tuple(
        Proven(
            index=i,
            size=len(leaves),
            line=logged[i],
            proof=tuple(part.hex() for part in inclusion_proof(leaves, i)),
        )
        for i in range(since, len(leaves))
    )
    proof = tuple(part.hex() for part in consistency_proof(leaves, since)) if since else ()
    return Receipt(head=head(leaves), since=since, proof=proof, rounds=rounds)


def check(made: Receipt, seen: TreeHead | None) -> TreeHead:
    return Receipt.from_text(made.to_text()).check(CONSORTIUM.signer_public, seen, CONSORTIUM.id)


def test_only_a_key_that_the_document_key_certified_signs_heads() -> None:
    assert read(head(hashes(lines(3)))).size == 3
    stranger = certificates.new_signing_key()
    own = certify(signed.private_key(stranger).public_key(), CONSORTIUM.id, stranger)
    elsewhere = certify(signed.private_key(stranger).public_key(), "0" * 32, CONSORTIUM.signer_key)
    for key, certified in ((stranger, CERTIFIED), (stranger, own), (KEY, own), (stranger, elsewhere)):
        with pytest.raises(InputError):
            read(head(hashes(lines(3)), key, certified))
    with pytest.raises(InputError, match="another consortium"):
        TreeHead.from_signed(
            TreeHead(consortium="0" * 32, size=0, root="0" * 64).to_signed(KEY, CERTIFIED),
            CONSORTIUM.signer_public,
            CONSORTIUM.id,
        )


@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 20), since=st.integers(0, 20))
def test_a_receipt_holds_for_the_head_that_it_begins_with(size: int, since: int) -> None:
    since = min(since, size)
    logged = lines(size)
    seen = read(head(hashes(logged[:since]))) if since else None
    assert check(receipt(logged, since), seen).size == size


def test_a_changed_round_a_removed_act_and_a_forked_head_are_refused() -> None:
    logged = lines(6)
    seen = read(head(hashes(logged[:4])))
    assert check(receipt(logged, 4), seen).size == 6
    changed = [dict(line) for line in logged]
    changed[1]["after"] = "9" * 64
    removed = logged[:2] + logged[3:] + lines(7)[6:]
    for other in (changed, removed, list(reversed(logged))):
        with pytest.raises(LogError, match="does not continue"):
            check(receipt(other, 4), seen)
    with pytest.raises(LogError, match="does not begin"):
        check(receipt(logged, 3), seen)
    with pytest.raises(LogError, match="does not begin"):
        check(receipt(logged, 0), seen)


def test_a_round_that_is_not_in_the_log_has_no_receipt() -> None:
    good = receipt(lines(6), 0)
    lied = replace(good.rounds[2], line={**good.rounds[2].line, "sum": "9" * 64})
    moved = replace(good.rounds[2], index=3)
    for bad in (lied, moved):
        with pytest.raises(LogError, match="is not in the tree"):
            check(replace(good, rounds=(bad,)), None)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"head":{},"since":true,"proof":[],"rounds":[]}', '{"head":{},"since":-1,"proof":[],"rounds":[]}',
     '{"head":{},"since":0,"proof":[],"rounds":[{"index":0}]}', '{"head":{},"since":0,"proof":0,"rounds":[]}'],
)  # fmt: skip
def test_what_is_no_receipt_is_refused_in_our_own_words(text: str) -> None:
    with pytest.raises(InputError):
        Receipt.from_text(text).check(CONSORTIUM.signer_public, None, CONSORTIUM.id)


def test_a_line_of_another_act_is_no_round() -> None:
    for bad in ({"act": "invite"}, {**lines(1)[0], "sites": "a"}, {**lines(1)[0], "sum": 3}, {**lines(1)[0], "x": 1}):
        with pytest.raises(InputError):
            RoundEntry.from_plain(bad)


def test_statistics_are_read_back_and_a_round_is_none() -> None:
    made = StatisticsEntry(run=RUN, attempt=1, sites=("a", "b"), sum="3" * 64, trained_on="4" * 64)
    line = {**made.to_plain(), "at": "2026-01-01T00:00:00+00:00"}
    assert StatisticsEntry.from_plain(line) == made
    for bad in (lines(1)[0], {**line, "sites": "a"}, {**line, "trained_on": ""}, {**line, "attempt": 0}):
        with pytest.raises(InputError):
            StatisticsEntry.from_plain(bad)
    with pytest.raises(LogError):
        RoundEntry.from_plain(line)

"""A hospital's folder in secure aggregation: its own identity, roster and floors, and a memory that outlives it."""

from pathlib import Path

import numpy as np
import pytest

from client.gate.secure_inputs import SecureInputs
from client.gate.secure_site import SecureSites
from client.site.home import ClientHome
from privacy.secagg.context import Cohort, Floors, SumTerms
from privacy.secagg.errors import SecAggError
from privacy.secagg.messages import Advert
from privacy.secagg.site import Opening
from privacy.trust.membership import AdmissionRequest
from privacy.wire.messages import Request
from privacy.wire.secure_work import config_hash, work_hash
from shared_model.core.errors import InputError
from shared_model.core.files import PRIVATE, PUBLIC, create_file
from tests.builders.consortium import Consortium, Site

RUN_ID = "ab" * 16
FLOORS = Floors()


def folders(tmp_path: Path, consortium: Consortium) -> dict[str, ClientHome]:
    """Three admitted hospitals, each with its own folder."""
    homes = {}
    for name in ("a", "b", "c"):
        home = ClientHome(folder=tmp_path / name, site=name, consortium=consortium.id, name="t", server="h:1")
        for part in ("keys", "trust", "state"):
            (home.folder / part).mkdir(parents=True)
        keys = Site()
        create_file(home.identity_key, keys.identity_key, PRIVATE)
        create_file(home.ca_certificate, consortium.authority, PUBLIC)
        create_file(home.signer_certificate, consortium.signer, PUBLIC)
        consortium.admission(AdmissionRequest.read(keys.request(consortium.invitation(name))))
        homes[name] = home
    for home in homes.values():
        home.roster_file.write_bytes(consortium.roster.to_signed(consortium.signer_key))
    return homes


def proposal(consortium: Consortium, plan: bytes = b"", **changes) -> Request:
    """The coordinator's first message."""
    cohort = Cohort.of(consortium.roster)
    asked = Request(kind="describe", run_id=RUN_ID, spec_json="{}", manifest_hash="a" * 64)
    values = {
        "session": bytes.fromhex(RUN_ID),
        "nonce": bytes(16),
        "round": 1,
        "steps": 1,
        "config": config_hash(asked, plan),
        "roster": cohort.digest,
        "threshold": 3,
        "least_survivors": 3,
        "colluders": 1,
        "ring_bits": 16,
        "length": 4,
    }
    terms = SumTerms(**{**values, **changes})
    return Request(kind="secure_keys", run_id=RUN_ID, spec_json="{}", manifest_hash="a" * 64, secure=terms)


@pytest.fixture
def consortium() -> Consortium:
    return Consortium()


@pytest.fixture
def sites():
    found = SecureSites()
    yield found
    found.close()


def test_a_folder_answers_with_its_own_identity(tmp_path, consortium, sites):
    home = folders(tmp_path, consortium)["b"]
    advert = sites.of_home(home, FLOORS).answer(proposal(consortium))
    assert isinstance(advert, Advert)
    assert advert.site == 1
    assert sites.of_home(home, FLOORS) is sites.of_home(home, FLOORS)


def test_a_set_up_is_begun_once_even_by_another_process(tmp_path, consortium, sites):
    home = folders(tmp_path, consortium)["a"]
    sites.of_home(home, FLOORS).answer(proposal(consortium))
    sites.close()
    again = SecureSites()
    with pytest.raises(SecAggError, match="begun before"):
        again.of_home(home, FLOORS).answer(proposal(consortium))
    again.close()


def test_two_processes_of_one_folder_are_told_so(tmp_path, consortium, sites):
    home = folders(tmp_path, consortium)["a"]
    sites.of_home(home, FLOORS)
    with pytest.raises(InputError, match="another process"):
        SecureSites().of_home(home, FLOORS)


def test_a_refusal_leaves_the_folder_to_the_next_request(tmp_path, consortium, sites):
    """Staff pin a roster that lacks the site, then the right one; nothing is started anew in between."""
    homes = folders(tmp_path, consortium)
    home, right = homes["a"], homes["a"].roster_file.read_bytes()
    consortium.roster = consortium.roster.revoke("a")
    home.roster_file.write_bytes(consortium.roster.to_signed(consortium.signer_key))
    for _ in range(2):
        with pytest.raises(SecAggError, match="roster"):
            sites.of_home(home, FLOORS)
    home.roster_file.write_bytes(right)
    key = home.identity_key.read_bytes()
    home.identity_key.unlink()
    with pytest.raises(InputError):
        sites.of_home(home, FLOORS)
    create_file(home.identity_key, key, PRIVATE)
    first = sites.of_home(home, FLOORS)
    home.roster_file.write_bytes(consortium.roster.to_signed(consortium.signer_key))
    with pytest.raises(SecAggError, match="roster"):
        sites.of_home(home, FLOORS)
    home.roster_file.write_bytes(right)
    assert sites.of_home(home, FLOORS) is first


def test_a_new_roster_plan_or_floor_counts_at_once(tmp_path, consortium, sites):
    home = folders(tmp_path, consortium)["a"]
    first = sites.of_home(home, FLOORS)
    with pytest.raises(SecAggError, match="not for this site's model"):
        sites.of_home(home, FLOORS, plan_digest=b"p" * 32).answer(proposal(consortium))
    with pytest.raises(SecAggError, match="at least 4 sites"):
        sites.of_home(home, Floors(sites=4)).answer(proposal(consortium))
    consortium.roster = consortium.roster.revoke("c")
    home.roster_file.write_bytes(consortium.roster.to_signed(consortium.signer_key))
    with pytest.raises(SecAggError, match="2"):
        sites.of_home(home, FLOORS).answer(proposal(consortium, threshold=2, least_survivors=2))
    assert sites.of_home(home, FLOORS) is not first


def test_terms_of_another_run_are_refused(tmp_path, consortium, sites):
    home = folders(tmp_path, consortium)["a"]
    with pytest.raises(SecAggError, match="another run"):
        sites.of_home(home, FLOORS).answer(proposal(consortium, session=b"x" * 16))


def test_a_site_that_is_not_admitted_yet_or_any_more_cannot_take_part(tmp_path, consortium, sites):
    homes = folders(tmp_path, consortium)
    homes["a"].roster_file.unlink()
    with pytest.raises(InputError, match="not admitted yet"):
        sites.of_home(homes["a"], FLOORS)
    gone = consortium.roster.revoke("b")
    homes["b"].roster_file.write_bytes(gone.to_signed(consortium.signer_key))
    with pytest.raises(SecAggError, match="not admitted by"):
        sites.of_home(homes["b"], FLOORS)


def test_what_is_no_message_of_the_protocol_is_refused(tmp_path, consortium, sites):
    site = sites.of_home(folders(tmp_path, consortium)["a"], FLOORS)
    plain = Request(kind="describe", run_id=RUN_ID, spec_json="{}", manifest_hash="a" * 64)
    for call in (site.answer, site.open):
        with pytest.raises(SecAggError):
            call(plain)


def test_every_part_of_the_work_is_in_its_hash():
    asked = Request(kind="describe", run_id=RUN_ID, spec_json="{}", manifest_hash="a" * 64)
    changed = [
        asked,
        Request(kind="train", run_id=RUN_ID, spec_json="{}", manifest_hash="a" * 64),
        Request(kind="describe", run_id=RUN_ID, spec_json="{ }", manifest_hash="a" * 64),
        Request(kind="describe", run_id=RUN_ID, spec_json="{}", manifest_hash="b" * 64),
        Request(kind="describe", run_id=RUN_ID, spec_json="{}", manifest_hash="a" * 64, vector=np.ones(2, np.float32)),
        Request(kind="describe", run_id=RUN_ID, spec_json="{}", manifest_hash="a" * 64, vector=np.zeros(2, np.float32)),
    ]
    assert len({work_hash(each) for each in changed}) == len(changed)
    assert config_hash(asked) != config_hash(asked, b"plan")


def test_a_disk_that_takes_no_more_is_named(tmp_path):
    opening = Opening(context=b"", salt=b"", seed=b"", mask_key=b"")
    (tmp_path / "inputs").write_text("a file in the folder's place")
    with pytest.raises(InputError, match="cannot be written"):
        SecureInputs(tmp_path / "inputs", bytes(32)).keep("ab", 1, bytes(32), opening, np.zeros(2), False)
    SecureInputs(tmp_path / "none", bytes(32), keep=0).keep("ab", 1, bytes(32), opening, np.zeros(2), False)
    assert not (tmp_path / "none").exists()

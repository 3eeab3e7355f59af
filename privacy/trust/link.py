"""The link with which a site joins in one step: where the coordinator is, which authority is the true one, the code.

``fedkt3d://HOST:PORT/SITE/FINGERPRINT/CODE``, without a character that a shell would need quoted. FINGERPRINT is the
SHA-256 of the consortium's CA certificate. So the site can fetch the certificates from the address itself: whoever
stands in the coordinator's place cannot show a CA of that fingerprint. The code is the invitation's one-time code and
does not travel (membership.py). A link is as secret as an invitation's file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from privacy.trust import certificates
from privacy.trust.membership import CODE, CONSORTIUM_NAME, PEM, Invitation, check_address
from privacy.trust.roster import DIGEST, SITE_NAME, utc_now
from shared_model.core.errors import InputError
from shared_model.core.fields import Rule, Whole, check_values

SCHEME = "fedkt3d://"
JOIN = "/join"  # the path of the coordinator's desk for sites that come with a link
MOST_BYTES = 32_768  # of a request or of the desk's certificates; an admission may be as long as a signed document
_LINK = re.compile(r"fedkt3d://([^/]{1,262})/([^/]{1,64})/([^/]{64})/([^/]{1,64})")


@dataclass(frozen=True, kw_only=True)
class JoinLink:
    """What a link holds: HOST:PORT, the site's name, the CA certificate's SHA-256 (hex) and the one-time code."""

    address: str
    site: str
    fingerprint: str
    code: str

    RULES: ClassVar[Mapping[str, Rule]] = {"site": SITE_NAME, "fingerprint": DIGEST, "code": CODE}

    @staticmethod
    def of(invitation: Invitation) -> JoinLink:
        """Return the link of an invitation."""
        return JoinLink(
            address=invitation.address,
            site=invitation.site,
            fingerprint=certificates.certificate_fingerprint(invitation.ca.encode()),
            code=invitation.code,
        )

    @staticmethod
    def parse(text: str) -> JoinLink:
        """Read a link; InputError when a part is missing or malformed. The text does not quote it: it is a secret."""
        match = _LINK.fullmatch(text.strip())
        if match is None:
            raise InputError(
                "LINK: expected fedkt3d://HOST:PORT/SITE/FINGERPRINT/CODE, whole, as the coordinator has it"
            )
        address, site, fingerprint, code = match.groups()
        check_values("schema", "LINK", {"site": site, "fingerprint": fingerprint, "code": code}, JoinLink.RULES)
        return JoinLink(address=check_address(address), site=site, fingerprint=fingerprint, code=code)

    def text(self) -> str:
        """Return the link."""
        return f"{SCHEME}{self.address}/{self.site}/{self.fingerprint}/{self.code}"

    def invitation(self, content: bytes) -> Invitation:
        """Return the invitation that the link and what the desk answered (``desk_certificates``) make together.

        InputError unless the CA is the link's and has certified the key that signs documents. When the invitation ends
        the coordinator alone knows, and checks.
        """
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise InputError(f"{self.address}: does not answer as a coordinator does; is the link's address right?")
        check_values("schema", self.address, found, _DESK)
        ca = certificates.check_authority(found["ca"].encode())
        if certificates.certificate_fingerprint(ca) != self.fingerprint:
            raise InputError(
                f"{self.address}: shows another CA certificate than the link names; nothing was made and nothing sent."
                " Ask the coordinator whether the link is whole, and IT who answers at this address"
            )
        invitation = Invitation(
            consortium=certificates.consortium_id(ca),
            name=found["name"],
            site=self.site,
            address=self.address,
            ca=ca.decode(),
            signer=found["signer"],
            code=self.code,
            expires=utc_now(),
        )
        invitation.signer_key()
        return invitation


_DESK: Mapping[str, Rule] = {"schema": Whole(1, 1), "name": CONSORTIUM_NAME, "ca": PEM, "signer": PEM}


def desk_certificates(name: str, ca: bytes, signer: bytes) -> bytes:
    """Return what the coordinator's desk shows to everybody: the consortium's name and certificates, nothing secret."""
    return json.dumps({"schema": 1, "name": name, "ca": ca.decode(), "signer": signer.decode()}).encode()

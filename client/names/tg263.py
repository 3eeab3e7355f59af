"""A hospital's structure name -> its TG-263 name (Mayo et al. 2018), by spelling alone.

Upper and lower case, separators and the side's place and form do not matter. Any further word does:
``SpinalCord_PRV05``, ``SpinalCord^PRV5`` and ``Larynx-PTV`` are not organs.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from functools import lru_cache

import tg263

BODY, SKIN = "Body", "Skin"

_LEFT = {"l", "lt", "left", "li", "links", "sin", "sinistra", "gauche", "izq"}
_RIGHT = {"r", "rt", "right", "re", "rechts", "dex", "dext", "dextra", "droite", "der"}
# Usual names that are not in TG-263, as normalised words without side.
_SYNONYMS = {
    "body": BODY,
    "external": BODY,
    "patient": BODY,
    "outer contour": BODY,
    "brain stem": "Brainstem",
    "hirnstamm": "Brainstem",
    "truncus": "Brainstem",
    "truncus cerebri": "Brainstem",
    "cord": "SpinalCord",
    "spinal cord": "SpinalCord",
    "myelon": "SpinalCord",
    "medulla spinalis": "SpinalCord",
    "parotis": "Parotid",
    "parotid gland": "Parotid",
    "glnd parotid": "Parotid",
    "glandula parotis": "Parotid",
    "glnd parotis": "Parotid",
    "oesophagus": "Esophagus",
    "mandible": "Bone_Mandible",
    "mandibula": "Bone_Mandible",
    "mandibel": "Bone_Mandible",
    "optic nerve": "OpticNrv",
    "opt nrv": "OpticNrv",
    "optic nrv": "OpticNrv",
    "submandibular gland": "Glnd_Submand",
    "submandibular": "Glnd_Submand",
    "submand": "Glnd_Submand",
    "chiasm": "OpticChiasm",
    "chiasma": "OpticChiasm",
    "herz": "Heart",
    "lad": "A_LAD",
    "great vessels": "GreatVes",
    "greatvessels": "GreatVes",
    "lunge": "Lung",
    "lungen": "Lungs",
    "total lung": "Lungs",
    "lung total": "Lungs",
    "lungs total": "Lungs",
    "both lungs": "Lungs",
    "total lung gtv": "Lungs-GTV",
    "lungs minus gtv": "Lungs-GTV",
    "lungs minus ptv": "Lungs-PTV",
    "brachial plexus": "BrachialPlex",
    "plexus brachialis": "BrachialPlex",
    "rektum": "Rectum",
    "urinary bladder": "Bladder",
    "harnblase": "Bladder",
    "blase": "Bladder",
    "femoral head": "Femur_Head",
    "fem head": "Femur_Head",
    "head of femur": "Femur_Head",
    "femurkopf": "Femur_Head",
    "bulbus penis": "PenileBulb",
    "bowel bag": "Bag_Bowel",
    "bowel space": "Spc_Bowel",
    "small bowel": "Bowel_Small",
    "large bowel": "Bowel_Large",
    "sigmoid": "Colon_Sigmoid",
    "sigma": "Colon_Sigmoid",
    "anal canal": "Canal_Anal",
}
# First words of TG-263 names that are targets or what they cover.
_NO_ORGAN = {"ptv", "ctv", "gtv", "itv", "ln", "boost"}
_PAIRED_WITHOUT_SIDE = {"Parotid", "OpticNrv", "Glnd_Submand", "Lung", "Femur_Head", "BrachialPlex"}
# Paired organs of which a name without a side means both.
_BOTH = {"BrachialPlex": "BrachialPlexs"}


def synonyms_digest() -> bytes:
    """A hash of the table of usual names: what was read by another table must be read again."""
    return hashlib.sha256(json.dumps(_SYNONYMS, sort_keys=True).encode()).digest()


def is_tg263(name: str) -> bool:
    """Whether TG-263 lists ``name`` as it stands."""
    return name in _tg263()[1]


def words(name: str) -> tuple[str, ...]:
    """Lower-case words of a name: parted by separators, at CamelCase and between letters and digits."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return tuple(re.findall(r"[a-z]+|[0-9]+(?:[.,p][0-9]+)?|[~^+]", spaced.lower()))


def is_plain(name: str) -> bool:
    """Whether a name holds nothing but letters a to z, digits, ~ ^ + and separators. Other characters may mean
    anything, such as an expansion in the site's language, or a doubt."""
    return re.fullmatch(r"[A-Za-z0-9~^+_\-.,/()\s]*", name) is not None


def tg263_name(name: str) -> str | None:
    """The TG-263 name that ``name`` spells, None if it spells none or no side of a paired organ."""
    if not is_plain(name):
        return None
    if is_tg263(name):
        return BODY if name == "External" else name  # TG-263 lists both for the outline
    found, side = _split_side(words(name))
    if not found or "^" in found:  # after ^ comes the site's own text: a mark of a copy, or of another structure
        return None
    base = _SYNONYMS.get(" ".join(found)) or _SYNONYMS.get("".join(found))
    if base is not None:
        if base in _PAIRED_WITHOUT_SIDE:
            return f"{base}_{side}" if side else _BOTH.get(base)
        return None if side else base
    return _tg263()[0].get(_key("".join(found), side))


def begins_with_organ(name: str) -> bool:
    """Whether the first words of ``name`` spell an organ, of one side, both or none."""
    found, table = words(name), _tg263()[0]
    if not found or found[0] in _NO_ORGAN:
        return False
    spelled = {_split_side(found[:count])[0] for count in range(1, len(found) + 1)}
    keys = {_key("".join(base), side) for base in spelled for side in ("", "L", "R")}
    return not table.keys().isdisjoint(keys) or any(" ".join(base) in _SYNONYMS for base in spelled)


def suggestions(name: str) -> tuple[str, ...]:
    """TG-263 names that look like ``name``, best first: for a person to choose from, never used."""
    found, side = _split_side(words(name.partition("^")[0]))
    if not found:
        return ()
    table = _tg263()[0]
    close = difflib.get_close_matches(_key("".join(found), side), table, n=3, cutoff=0.75)
    return tuple(dict.fromkeys(table[key] for key in close))


def _split_side(found: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """Words without the side, and the side: L, R or empty. A side stands first or last."""
    for at in (-1, 0):
        if len(found) > 1 and found[at] in _LEFT | _RIGHT:
            rest = found[:-1] if at else found[1:]
            return rest, "L" if found[at] in _LEFT else "R"
    return found, ""


def _key(joined: str, side: str) -> str:
    return f"{joined}|{side}"


@lru_cache(maxsize=1)
def _tg263() -> tuple[dict[str, str], frozenset[str]]:
    """Normalised spelling -> name, and all names. Spellings that two names share stand for neither."""
    names = [structure.primary_name for structure in tg263.ALLOWED_STRUCTURES]
    table: dict[str, str] = {}
    twice = set()
    for name in dict.fromkeys(names):
        found, side = _split_side(words(name))
        key = _key("".join(found), side)
        if key in table:
            twice.add(key)
        table[key] = name
    return {key: name for key, name in table.items() if key not in twice}, frozenset(names)

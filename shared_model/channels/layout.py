"""Which channels each modality has, where they lie in a patient's stack, and how a mirror moves them.

Every channel is 0 where nothing is: outside the body, far from a structure, in air, off the beams. So a modality
that is missing is a block of zeros, and whatever is cut off or turned in from outside needs no other fill.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shared_model.patient.anatomy import OAR_NAMES, mirror_name
from shared_model.patient.case import CONDITIONS, MODALITIES

# Part of the cache's key: raise it whenever the numbers in a channel change.
RECIPE = 1

TARGETS: tuple[str, ...] = ("high", "middle", "low", "high_or_middle", "any_target")
BLURS: tuple[str, ...] = ("blur6", "blur15", "blur30", "blur60", "slice_blur")
LIGHTS: tuple[str, ...] = ("light", "light_high", "crossing", "light_thick", "light_most", "light_blurred")

# Channels of one modality's conditions. Those of beams one by one come apart, in BEAM.
NAMES: Mapping[str, tuple[str, ...]] = {
    "ct": ("ct", "soft_tissue"),
    "ptv": (
        "prescription", "is_high", "is_middle", "is_low", *(f"near_{name}" for name in TARGETS),
        "slice_near", "beyond", *BLURS, "posterior", "lateral", "superior",
    ),
    "oar": (*(f"is_{name}" for name in OAR_NAMES), *(f"near_{name}" for name in OAR_NAMES)),
    "body": ("body", "depth", "from_middle", "aside", "width", "height"),
    "beam": ("plate", *LIGHTS),
    "angle": ("angle_plate",),
}  # fmt: skip
# Of each beam by itself: dimmed prescription on the ray, dimmed light in the open, target and organ on the ray.
BEAM: tuple[str, ...] = ("shaped", "open", "target_on_ray", "organ_on_ray")
# The one of them that organs are needed for: 0 where ``oar`` is no condition.
ORGAN_ON_RAY = BEAM.index("organ_on_ray")

# What a modality is as a target of denoising: its channels, and (mean, standard deviation) inside the body as round
# figures. Public constants, the same at every site. Dose is in units of the highest prescription.
TARGET_CHANNELS: Mapping[str, tuple[str, ...]] = {
    "dose": ("dose",),
    "ct": ("ct",),
    "ptv": ("prescription",),
    "oar": tuple(f"is_{name}" for name in OAR_NAMES),
    "body": ("body",),
    "beam": ("plate",),
    "angle": ("angle_plate",),
}
SCALE: Mapping[str, tuple[float, float]] = {
    "dose": (0.3, 0.35),
    "ct": (0.8, 0.4),
    "ptv": (0.1, 0.3),
    "oar": (0.02, 0.12),
    "body": (0.5, 0.5),
    "beam": (0.4, 0.35),
    "angle": (0.03, 0.12),
}
# Dose of a case without targets is in units of this.
UNIT_GY = 70.0


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where channels lie on a stack's last axis: conditions in order, ``beams`` beams one by one, dose at the end."""

    beams: int

    @property
    def channels(self) -> int:
        """Channels of the whole stack."""
        return sum(len(names) for names in NAMES.values()) + self.beams * len(BEAM) + 1

    def of(self, modality: str) -> slice:
        """The condition channels of a modality, without its beams one by one."""
        start = 0
        for name in CONDITIONS:
            if name == modality:
                return slice(start, start + len(NAMES[name]))
            start += len(NAMES[name])
        raise KeyError(modality)

    @property
    def each_beam(self) -> slice:
        """All channels of the beams one by one: beam by beam, each in the order of BEAM."""
        start = self.of("angle").stop
        return slice(start, start + self.beams * len(BEAM))

    def index(self, name: str) -> int:
        """The place of a named channel (not of BEAM)."""
        if name == "dose":
            return self.channels - 1
        for modality, names in NAMES.items():
            if name in names:
                start: int = self.of(modality).start
                return start + names.index(name)
        raise KeyError(name)

    def target(self, modality: str) -> list[int]:
        """The places of what a modality is as a target of denoising."""
        return [self.index(name) for name in TARGET_CHANNELS[modality]]

    def mirrored(self) -> list[int]:
        """For each channel the one that takes its place in a mirror: paired organs swap; all else stays.

        Beams stay where they are in the stack; it is their angles that change sign.
        """
        places = list(range(self.channels))
        for name in OAR_NAMES:
            for kind in ("is", "near"):
                places[self.index(f"{kind}_{name}")] = self.index(f"{kind}_{mirror_name(name)}")
        return places


assert set(NAMES) == set(CONDITIONS)
assert set(TARGET_CHANNELS) == set(SCALE) == set(MODALITIES)

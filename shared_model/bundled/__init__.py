"""Data that ships with the package: priors, the default adapter, public cases and scorecards."""

from pathlib import Path

_HERE = Path(__file__).parent
PRIOR_FOLDERS = _HERE / "priors"
DEFAULT_ADAPTER = _HERE / "adapter_default" / "adapter.safetensors"
# Of the U-shaped network, size small: a full adapter of phantoms.
PHANTOM_PRIOR = PRIOR_FOLDERS / "phantom-pyramid" / "adapter.safetensors"
PUBLIC_CASES = _HERE / "public_cases" / "cases.npz"
SCORECARDS = _HERE / "scorecards"
TRADEOFF = _HERE / "tradeoff" / "tradeoff.safetensors"

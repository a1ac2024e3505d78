"""What the source report claims (``data/claims.json``): every claimed number that a rule, a figure or a test names."""

import json
from functools import cache

from specsync_lib.paths import CLAIMS_FILE


@cache
def claims() -> dict[str, dict]:
    """The claims by key: what, value, unit, where it stands, label claimed."""
    content = json.loads(CLAIMS_FILE.read_text(encoding="utf-8"))
    return {claim["key"]: claim | {"label": content["label"]} for claim in content["claims"]}


CLAIMED_ACCEPTANCE: float = claims()["acceptance_at_085"]["value"]
CLAIMED_THRESHOLD: float = claims()["acceptance_at_085"]["at_confidence"]
CLAIMED_KERNEL_MS: float = claims()["kernel_overhead_ms"]["value"]

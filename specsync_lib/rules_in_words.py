"""The rules of a run in words, in the order in which a reader meets them (standard library alone)."""

RULE_WORDS = {
    "exact": "exact: the judge's own plan",
    "mouth": "mouth: exact on lip shapes",
    "lenient": "lenient: within one frame",
    "gate": "gate: sure frames unasked",
    "draft": "draft: no judge",
    "judge": "judge: serial, nothing drafted",
}

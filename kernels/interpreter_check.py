"""The kernels against their references in Triton's interpreter, on any CPU, in a process of its own.

``interpreter_check()`` is the notebook's live check; the test suite covers hundreds of shapes the same way.
"""

import json

import pandas as pd

from kernels.fresh_process import table_from

SHAPES = ((1, 17, 3, 63), (3, 33, 16, 129), (8, 32, 17, 257))  # slots, hidden, coefficients, latent size
TOLERANCE = {"float32": 1e-5, "float16": 3e-3}  # over 1 + largest value; reasons in test_project_latents.py


def interpreter_check() -> pd.DataFrame:
    """One row per kernel, shape and dtype: shape, dtype, error (over 1 + largest value), tolerance, ok."""
    return table_from("kernels.interpreter_check", "the interpreter check", interpret=True)


def project_rows() -> list[dict]:
    import torch

    from kernels.project_latents import project_latents, reference
    from kernels.project_latents.random_case import random_inputs, random_weights

    generator, rows = torch.Generator().manual_seed(1), []
    for slots, hidden, coefficients, latent in SHAPES:
        weights = random_weights(hidden, coefficients, latent, generator)
        for dtype in (torch.float32, torch.float16):
            mel, z0 = random_inputs(slots, latent, generator, dtype)
            got = project_latents(mel, 4 * slots, z0, weights, backend="triton")
            want = reference.project_latents(mel.double(), 4 * slots, z0.double(), weights.to(torch.float64))
            error = max(
                ((getattr(got, f).double() - getattr(want, f)).abs().max() / (1 + getattr(want, f).abs().max())).item()
                for f in ("logits", "confidence", "openness", "coefficients", "latents")
            )
            shape = f"T {slots}, H {hidden}, K {coefficients}, D {latent}"
            name = str(dtype).removeprefix("torch.")
            rows.append(
                {
                    "kernel": "project_latents",
                    "shape": shape,
                    "dtype": name,
                    "error": error,
                    "tolerance": TOLERANCE[name],
                }
            )
    return rows


def verify_rows() -> list[dict]:
    import torch

    from kernels.verify_prefix import verify_greedy, verify_sampled

    generator, batch, drafts, vocabulary = torch.Generator().manual_seed(1), 32, 12, 15
    target = torch.randn(batch, drafts + 1, vocabulary, generator=generator).softmax(dim=2)
    draft = (target[:, :drafts].log() + 0.3 * torch.randn(batch, drafts, vocabulary, generator=generator)).softmax(
        dim=2
    )
    tokens = torch.multinomial(draft.flatten(0, 1), 1, generator=generator).view(batch, drafts).int()
    uniforms = torch.rand(batch, drafts + 1, generator=generator)
    rows = []
    for name, rule, arguments in (
        ("sampled", verify_sampled, (target, draft, tokens, uniforms)),
        ("greedy", verify_greedy, (target, tokens)),
    ):
        got, want = rule(*arguments, backend="triton"), rule(*arguments, backend="torch")
        wrong = ((got.accepted != want.accepted) | (got.token != want.token)).float().mean().item()
        shape = f"B {batch}, T {drafts}, V {vocabulary}"
        rows.append(
            {"kernel": f"verify_prefix, {name}", "shape": shape, "dtype": "float32", "error": wrong, "tolerance": 0.0}
        )
    return rows


if __name__ == "__main__":
    table = [row | {"ok": row["error"] <= row["tolerance"]} for row in (*project_rows(), *verify_rows())]
    print(json.dumps(table))

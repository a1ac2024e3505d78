"""What the judge answers on chunks of one or two slots, chunk by chunk: replayed where weights are random.

    python -m workbench.measure.chunk_answers --slots 1 --frames-a-pass 25       about 10 minutes on two quiet cores
    python -m workbench.measure.chunk_answers --slots 1 --prompts 1 --out try.json     a dry run

Every human test prompt is heard as the pipeline hears it, without words, in chunks of that size. The file is
`answers.pattern_path`'s, laid out as acceptance_pattern.json (`referee.acceptance_pattern`), which is of three slots
and of a judge that was told Whisper's words.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from specsync_lib.errors import InputError
from specsync_lib.files import write_json
from specsync_lib.judge.branches import ROOMS, Branches
from specsync_lib.judge.rules import VerifyOptions
from specsync_lib.judge.verify import ChunkVerdict, ShiftGuard, run_options
from specsync_lib.pipeline.answers import OTHER_PLANS, pattern_path
from specsync_lib.pipeline.models import Asked, Listeners, judged, load_listeners
from specsync_lib.pipeline.replay import HeardChunk, hear
from specsync_lib.provenance import machine
from specsync_lib.rows import Row
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.corpus import human_prompts
from specsync_lib.units import CHUNK_SLOTS, ChunkSize


def verdicts(models: Listeners, heard: Sequence[HeardChunk], options: VerifyOptions) -> list[ChunkVerdict]:
    """One recording's chunks, each after what was committed of those before it."""
    stream, guard, done = models.reasoner.stream(), ShiftGuard(), []
    for chunk in heard:
        stream.read(chunk.evidence)
        guard.next_chunk(chunk.audio.frames)
        before = int(done[-1].tokens[-1]) if done else None
        best = done[-1].best_of_last if done else None
        asked = Asked(chunk.draft, chunk.evidence, before, best, guard)
        done.append(judged(stream, chunk.audio.index, asked, options)[1])
    return done


def rows_of(
    name: str, heard: Sequence[HeardChunk], by_way: dict[str, Sequence[ChunkVerdict]]
) -> list[dict[str, object]]:
    """A recording's chunks as the file has them."""
    rows = []
    for index, chunk in enumerate(heard):
        row: dict[str, object] = {"utterance": name, "chunk": index, "frames": chunk.audio.frames}
        for way, decided in by_way.items():
            rejected = [
                frame
                for frame, (drafted, token) in enumerate(zip(chunk.draft.tokens, decided[index].tokens, strict=True))
                if drafted != token
            ]
            if way != "lenient":  # which takes one pass, always
                row[f"{way}_passes"], row[f"{way}_known_after"] = decided[index].passes, decided[index].known_after
            # an exact rule's plan is the same in every way
            row.setdefault(f"{way}_rejected_at" if way in OTHER_PLANS else "rejected_at", rejected)
        rows.append(row)
    return rows


def measure(slots: int, rooms: Sequence[str], prompts: int | None) -> dict:
    """Every prompt in every way."""
    models, size = load_listeners(Row()), ChunkSize(slots)
    ways = {"guessed": VerifyOptions()} | {rule: run_options(rule) for rule in OTHER_PLANS}
    ways |= {f"branched_{room}": VerifyOptions(branches=Branches.load(room=ROOMS[room])) for room in rooms}
    chunks, faults = [], 0
    for prompt in human_prompts("test")[:prompts]:
        heard = hear(models, load_audio(prompt.path).samples, size)
        by_way = {way: verdicts(models, heard, options) for way, options in ways.items()}
        faults += sum(len(verdict.faults) for decided in by_way.values() for verdict in decided)
        chunks += rows_of(prompt.name, heard, by_way)
        print(f"{prompt.name}: {len(heard)} chunks", flush=True)
    return {
        "what": "as of acceptance_pattern.json, for chunks of chunk_slots slots and a judge that hears no words; "
        "rejected_at: frames whose draft does not stand. faults: passes that were not believed",
        "label": models.reasoner.label,
        "chunk_slots": slots,
        "faults": faults,
        "one_pass_chunks": sum(chunk["guessed_passes"] <= 1 for chunk in chunks) / max(1, len(chunks)),
        "chunks": chunks,
    }


def main(arguments: Sequence[str]) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m workbench.measure.chunk_answers", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--slots", type=int, choices=CHUNK_SLOTS, required=True, help="of a chunk")
    parser.add_argument("--frames-a-pass", choices=tuple(ROOMS), nargs="+", default=["25"], help="of several plans")
    parser.add_argument("--prompts", type=int, help="only so many")
    parser.add_argument("--out", type=Path, help="the JSON to write [where the pipelines look for it]")
    options = parser.parse_args(list(arguments))
    out = options.out or pattern_path(ChunkSize(options.slots))
    if options.slots == max(CHUNK_SLOTS) and options.out is None:
        parser.error("--slots 3: its answers are workbench.measure.referee's; give --out to write others")
    torch.set_num_threads(1)
    try:
        content = measure(options.slots, options.frames_a_pass, options.prompts)
    except InputError as error:
        print(f"chunk_answers: {error}", file=sys.stderr)
        return InputError.EXIT_CODE
    command = shlex.join(["python", "-m", "workbench.measure.chunk_answers", *arguments])
    write_json(out, content | {"machine": machine(), "command": command})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The small decoder's headline numbers come from its metrics and from what was timed, or are not there."""

import json

import pytest

from specsync_lib import summary
from specsync_lib.errors import InputError
from specsync_lib.measures import decoder


def metrics(path, in_use="medium"):
    def part(level):
        clips = [
            {"clip": f"head_{k:03d}/x", "psnr_db": level + k, "mouth_psnr_db": level, "ssim": 0.9, "flicker_grey": 0.3}
            for k in range(3)
        ]
        means = {"psnr_db": level + 1, "mouth_psnr_db": level, "ssim": 0.9, "flicker_grey": 0.3}
        return means | {"clips": 3, "per_clip": clips}

    final = {name: {"test": part(level)} for name, level in (("wan", 32.0), ("medium", 34.0), ("small", 33.0))}
    path.write_text(json.dumps({"final": final, "in_use": in_use}))
    return path


def timed(path, rows):
    path.write_text(json.dumps({"rows": [{"slots": 3, "p20_ms": 1.0, "p80_ms": 3.0, "n": 20} | row for row in rows]}))
    return path


@pytest.fixture
def recorded(monkeypatch):
    found = {}
    monkeypatch.setattr(decoder, "record", lambda key, *values: found.update({key: values}))
    return found


def test_nothing_is_recorded_before_one_is_trained(recorded, tmp_path):
    decoder.record_summary(tmp_path / "absent.json")
    assert recorded == {}
    with pytest.raises(InputError, match="no decoder's metrics"):
        decoder.quality(tmp_path / "absent.json")


def test_what_is_recorded_is_of_the_weights_in_use(recorded, tmp_path):
    path = metrics(tmp_path / "metrics.json")
    table = decoder.quality(path).set_index("decoder")
    assert table["in_use"].to_dict() == {"wan": False, "medium": True, "small": False}
    assert table.loc["medium", "psnr_db_low"] <= 35 <= table.loc["medium", "psnr_db_high"]
    fast = {"decoder": "tiny", "region_px": 384, "median_ms": 2.0, "label": "measured"}
    rows = [fast | {"median_ms": 1.0, "agrees": False}, fast, fast | {"region_px": 256}, fast | {"decoder": "large"}]
    times = ((timed(tmp_path / "gpu.json", rows), 384, "decoder.h200_us_per_chunk_384px", "us", 1000),)
    decoder.record_summary(path, (*times, (tmp_path / "absent.json", 256, "decoder.cpu_ms_per_chunk", "ms", 1)))
    assert set(recorded) == {f"decoder.{key}" for key in decoder.UNITS} | {"decoder.h200_us_per_chunk_384px"}
    assert recorded["decoder.psnr_db"][0] == 35
    assert recorded["decoder.h200_us_per_chunk_384px"][:3] == (2000, "us", "measured")
    assert all(summary.KEY_PATTERN.fullmatch(key) for key in recorded)

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgelift.poses.skeletons import skeleton
from edgelift.trainer.report import ClipView, ReportData, page_data, write_report

JOINTS = 14


def data(title: str = "a report", frames: int = 120) -> ReportData:
    rng = np.random.default_rng(0)
    keypoints = rng.uniform(0, 900, (frames, JOINTS, 3))
    keypoints[3, 2] = (np.nan, np.nan, 0)
    poses = rng.normal(size=(frames, JOINTS, 3))
    clip = ClipView("walk", keypoints, (1000, 800), poses, poses + 0.01, 20.0)
    scores: dict[str, Any] = {"mpjpe_mm": 1.0, "against": "truth", "frames": 3, "flexion_error_deg": {"knee": None},
                              "per_joint_mm": {"mid_hip": 0.0}, "per_action": {}}  # fmt: skip
    return ReportData(title, skeleton("common14"), (clip, clip, clip), scores, [(1, 9.0)], {}, [0.5], "CPU", {"a": "b"})


def embedded(page: str) -> Any:
    found = re.search(r"const D = (.*);\n", page)
    assert found is not None
    return json.loads(found.group(1))


def test_the_page_fetches_nothing_and_is_small(tmp_path: Path) -> None:
    write_report(data(), tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "http://" not in page
    assert "https://" not in page
    assert not re.search(r"\b(src|href)\s*=|@import|fetch\(", page)
    assert len(page) < 2_000_000
    assert list(tmp_path.iterdir()) == [tmp_path / "r.html"]


def test_the_embedded_data_is_what_was_given(tmp_path: Path) -> None:
    given = data()
    write_report(given, tmp_path / "r.html")
    found = embedded((tmp_path / "r.html").read_text())
    assert found == json.loads(json.dumps(page_data(given)))
    clip = found["clips"][0]
    np.testing.assert_allclose(clip["lifted"], given.clips[0].lifted, atol=0.00051)
    assert clip["keypoints"][3][2][:2] == [None, None]


def test_no_title_can_close_the_script(tmp_path: Path) -> None:
    write_report(data("</script><script>alert(1)"), tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert page.count("</script>") == 1
    assert embedded(page)["title"] == "</script><script>alert(1)"


def test_unknown_truth_is_null(tmp_path: Path) -> None:
    given = data()
    given = replace(given, clips=(replace(given.clips[0], truth=None),))
    write_report(given, tmp_path / "r.html")
    assert embedded((tmp_path / "r.html").read_text())["clips"][0]["truth"] is None

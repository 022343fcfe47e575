from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("poses", "trainer", "export", "runtime", "calibration", "cli")


def packages_on_disk() -> set[str]:
    folders = {init.parent.relative_to(ROOT) for room in ROOMS for init in (ROOT / room).rglob("__init__.py")}
    return {"edgelift"} | {"edgelift." + ".".join(f.parts) for f in folders}


def test_every_package_is_listed_and_typed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(settings["tool"]["setuptools"]["packages"]) == packages_on_disk()
    for package in packages_on_disk() - {"edgelift"}:
        assert (ROOT / Path(*package.split(".")[1:]) / "py.typed").is_file(), package


def test_the_wheel_holds_every_module_and_data_file(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in (*ROOMS, "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)  # a clean tree: build/lib would keep deleted modules
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    [wheel] = tmp_path.glob("*.whl")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    suffixes = {".py", ".typed", ".json", ".html", ".js", ".txt"}
    files = [p for room in ROOMS for p in (ROOT / room).rglob("*") if p.suffix in suffixes]
    expected = {f"edgelift/{p.relative_to(ROOT).as_posix()}" for p in files}
    assert inside == expected

"""The SDK as a user's type checker sees it: what is right passes strictly, what is wrong is found where it is."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RIGHT, WRONG = HERE / "user_app.py", HERE / "wrong_app.py"
Check = Callable[[Path, Path], set[int]]


def checked(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )


def by_mypy(file: Path, folder: Path) -> set[int]:
    """The lines with errors, of that file."""
    settings = folder / "mypy.ini"  # a user's, and not this project's
    settings.write_text(f"[mypy]\nstrict = true\nexplicit_package_bases = true\nmypy_path = {ROOT}\n")
    done = checked("mypy", "--config-file", str(settings), "--cache-dir", str(folder / "cache"), str(file))
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = re.findall(r"^\S*?(\w+)\.py:(\d+): error: .*$", done.stdout, re.MULTILINE)
    assert {name for name, _ in found} <= {file.stem}, done.stdout
    return {int(line) for _, line in found}


def by_pyright(file: Path, folder: Path) -> set[int]:
    shutil.copy(file, folder)  # a project of its own: files outside it are not looked at
    settings = folder / "pyrightconfig.json"
    settings.write_text(json.dumps({"typeCheckingMode": "strict", "extraPaths": [str(ROOT)], "include": [file.name]}))
    done = checked("pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(settings))
    said = json.loads(done.stdout)
    assert said["summary"]["filesAnalyzed"] == 1, done.stdout
    return {each["range"]["start"]["line"] + 1 for each in said["generalDiagnostics"] if each["severity"] == "error"}


@pytest.mark.parametrize("check", [by_mypy, by_pyright])
def test_what_is_right_passes(check: Check, tmp_path: Path) -> None:
    assert check(RIGHT, tmp_path) == set()


@pytest.mark.parametrize("check", [by_mypy, by_pyright])
def test_what_is_wrong_is_found(check: Check, tmp_path: Path) -> None:
    lines = WRONG.read_text().splitlines()
    assert check(WRONG, tmp_path) == {at for at, line in enumerate(lines, 1) if line.endswith("# wrong")}

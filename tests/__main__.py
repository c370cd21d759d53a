"""`python -m tests [pytest's arguments]`: every test, in two halves side by side, because most of their time is waiting for servers.
Each half has servers of its own. What the second half said is printed when the first one has ended."""

import subprocess
import sys
import tempfile

MOVED = ("tests/e2e/test_dev.py", "tests/e2e/test_httpbin_direct.py", "tests/e2e/test_httpbin_mesh.py")
"""To the first half, so that both take about as long."""
HALVES = (
    ["tests/contract", "tests/property", "tests/unit", "tests/typing", *MOVED],
    ["tests/e2e", "tests/fault", *(f"--ignore={file}" for file in MOVED)],
)
NO_TESTS = 5
"""pytest's exit code where nothing was selected, as -k may do to one half."""


def main(arguments: list[str]) -> int:
    command = [sys.executable, "-m", "pytest", *arguments]
    with tempfile.TemporaryFile("w+") as output:
        second = subprocess.Popen([*command, *HALVES[1]], stdout=output, stderr=subprocess.STDOUT)
        try:
            first = subprocess.run([*command, *HALVES[0]], check=False).returncode
            code = second.wait()
        except BaseException:
            second.terminate()
            second.wait()
            raise
        finally:
            output.seek(0)
            sys.stdout.writelines(output)
    codes = {first, code}
    return max(codes - {NO_TESTS}, default=NO_TESTS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

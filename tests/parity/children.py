"""Peak memory and time of a child process.

A child's ru_maxrss also counts what its parent held when it forked, so a small Python stands between.
"""

import json
import subprocess
import sys

LAUNCHER = """
import json, os, sys, time
start = time.perf_counter()
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ,
                      file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
_, status, usage = os.wait4(pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024, time.perf_counter() - start]))
"""


def run_child(*args):
    """(exit code, peak RSS in bytes, seconds) of one program; stdout is dropped, stderr passes through."""
    command = [sys.executable, "-I", "-S", "-c", LAUNCHER, *map(str, args)]
    return tuple(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))

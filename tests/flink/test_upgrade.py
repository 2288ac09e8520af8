"""A new release of the job goes on from the checkpoints of the one before."""

import subprocess
from pathlib import Path

import pytest

from local.layout import ROOT, environment_python

_UIDS = """
import sys
from pathlib import Path
from flink_jobs.last_n import job
from flink_jobs.last_n.checkpoints import JobFolder
from flink_jobs.last_n.minicluster import Jvm, build_home, cluster_configuration
from nearline.settings import load_settings

settings = load_settings({"NEARLINE_DATA": sys.argv[1]})
folder = JobFolder(settings.data / "flink")
folder.folder.mkdir(parents=True)
jvm = Jvm(build_home(folder.folder, settings.flink_lib), folder.folder)
try:
    jvm.start()
    asked = job.configuration(settings, folder, None) | cluster_configuration(settings, folder.folder)
    graph = job.build(settings, asked)._j_stream_execution_environment.getStreamGraph()
    print(*sorted(node.getTransformationUID() for node in graph.getStreamNodes().toArray()), sep="\\n")
finally:
    jvm.stop()
"""
# What the tree of 2026-11-22 called all that keeps state; the sums of popularity are windows and groups. Flink refuses
# a checkpoint that holds state of a name which the graph lacks.
EARLIER_TREE = {
    "1_source",
    "last-n",
    "11_window-aggregate",
    "14_group-aggregate",
    *(f"{name}{number}_sink" for number in (6, 8, 16, 18, 20) for name in ("", "Sink Committer: ")),
}


def test_everything_that_keeps_state_is_called_as_in_an_earlier_tree(tmp_path: Path) -> None:
    command = [str(environment_python("flink")), "-c", _UIDS, str(tmp_path / "data")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        pytest.fail(done.stderr[-2000:])
    uids = done.stdout.split("\n")
    assert EARLIER_TREE - set(uids) == set()
    assert len(uids) == len(set(uids))

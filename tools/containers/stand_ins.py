"""What runs in the place of images that cannot be pulled, for the whole file on a machine without a registry."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from local.downloads import COUCHBASE_MOCK_FILE, prepare_couchbase_mock
from tools.containers.commands import Failed
from tools.containers.engine import Engine
from tools.containers.images import downloaded_jars

_FOUND_S, _PULL_S = 60.0, 1_800.0
# The services of the whole file whose images are others' and that run without a profile.
IMAGES_OF_OTHERS = {"couchbase": "couchbase:enterprise-7.6.9", "triton": "nvcr.io/nvidia/tritonserver:25.10-py3"}
_COUCHBASE = """\
FROM {base}
COPY java /opt/java
COPY couchbase-mock.jar /opt/
COPY couchbase_stand_in.py healthy.py /opt/
CMD ["python", "/opt/couchbase_stand_in.py", "couchbase", "nearline", "nearline-trial"]
"""


@dataclass(frozen=True)
class StandIns:
    """Changes of the compose file's services, and who stands in for whom, for people."""

    services: Mapping[str, object]
    said: tuple[str, ...]


def stand_ins(engine: Engine, base: str, folder: Path) -> StandIns:
    """A stand-in for each image of others that this machine cannot pull."""
    missing = [service for service, image in IMAGES_OF_OTHERS.items() if not _pulled(engine, image)]
    services: dict[str, object] = {}
    said = []
    if "couchbase" in missing:
        services["couchbase"] = _couchbase(engine, base, folder)
        said.append("couchbase: CouchbaseMock, with our own answers of its REST interface; it forgets all at a restart")
    if "triton" in missing:
        services["triton"] = {
            "image": "nearline-triton:0.1.0",
            "build": {"context": ".", "dockerfile": "deploy/triton_local/Dockerfile", "args": {"BASE": base}},
            "user": "10001",
            "command": ["python", "-m", "local.triton", "--host", "0.0.0.0", "--repository", "/models"],
        }
        said.append("triton: the server of the nvidia-pytriton wheel, as in the trial")
    return StandIns(services, tuple(said))


def _pulled(engine: Engine, image: str) -> bool:
    try:
        engine.docker("manifest", "inspect", image, deadline_s=_FOUND_S)
    except Failed:
        return False
    engine.docker("pull", "-q", image, deadline_s=_PULL_S)
    return True


def _couchbase(engine: Engine, base: str, folder: Path) -> Mapping[str, object]:
    prepare_couchbase_mock()
    context = folder / "couchbase"
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir()
    downloaded_jars(folder).joinpath("opt", "java").rename(context / "java")
    shutil.copyfile(COUCHBASE_MOCK_FILE.read_text().strip(), context / "couchbase-mock.jar")
    shutil.copyfile(Path(__file__).with_name("couchbase_stand_in.py"), context / "couchbase_stand_in.py")
    shutil.copyfile(Path(__file__).parents[2] / "deploy/services/healthy.py", context / "healthy.py")
    (context / "Dockerfile").write_text(_COUCHBASE.format(base=base))
    engine.docker("build", "-q", "-t", "nearline-couchbase-stand-in:1", str(context), deadline_s=300.0)
    check = ["CMD", "python", "-IS", "/opt/healthy.py", "http://127.0.0.1:8091/pools"]
    return {"image": "nearline-couchbase-stand-in:1", "init": True, "healthcheck": {"test": check}}

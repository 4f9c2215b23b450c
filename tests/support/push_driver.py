"""Pushes a release in a process of its own, to be killed: FOLDER REPO TAG."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

from imaginet_build.destinations.hubpush import Repository
from imaginet_build.pushing import push

warnings.simplefilter("ignore", DeprecationWarning)
repository = Repository(sys.argv[2], pause=0.01)
repository.login()
print(json.dumps(push(Path(sys.argv[1]), repository, audit=lambda *_: "", tag=sys.argv[3]).to_json()))

"""Makes what is derived from the code: dux_ctl/methods.json, the man page, etc-duxnet/, and three pages of docs/.

python build_script/generate.py          # write the files
python build_script/generate.py --check  # exit 1 and name the stale ones
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pydantic import BaseModel  # noqa: E402

from build_script import pages  # noqa: E402
from build_script.configs import config  # noqa: E402
from build_script.man import man_page, other_pages  # noqa: E402
from dux_airdropd import airdrop_methods  # noqa: E402
from dux_airdropd import methods as airdropd  # noqa: E402
from dux_ctl import exits  # noqa: E402
from dux_devnet.chain.settings import DevchainSettings  # noqa: E402
from dux_escrowd import methods as escrowd  # noqa: E402
from dux_escrowd.settings import EscrowSettings  # noqa: E402
from dux_flopd import fact_methods as facts  # noqa: E402
from dux_flopd import methods as flopd  # noqa: E402
from dux_flopd.settings import FlopdSettings  # noqa: E402
from dux_governance import methods as governance  # noqa: E402
from dux_registryd import eligibility_methods as eligibility  # noqa: E402
from dux_registryd import methods as registryd  # noqa: E402
from dux_registryd.settings import RegistrydSettings  # noqa: E402
from dux_store import methods as store  # noqa: E402
from dux_taskd import methods as taskd  # noqa: E402
from dux_taskd.sandbox import methods as sandbox  # noqa: E402
from dux_taskd.sandbox.settings import SandboxSettings  # noqa: E402
from dux_taskd.settings import TaskdSettings  # noqa: E402
from duxcommon.config import Settings  # noqa: E402
from duxcommon.daemon import CommonMethods  # noqa: E402
from duxcommon.errors import BY_CODE  # noqa: E402
from duxcommon.rpc.declare import MethodSpec, specs_of  # noqa: E402
from duxcommon.rpc.openrpc import document  # noqa: E402

SETTINGS: dict[str, type[Settings]] = {
    "flopd": FlopdSettings,
    "escrowd": EscrowSettings,
    "taskd": TaskdSettings,
    "sandbox": SandboxSettings,
    "registryd": RegistrydSettings,
    "airdropd": Settings,
}

CONFIGURED: dict[str, type[BaseModel]] = {**SETTINGS, "devchain": DevchainSettings}
"""What has a file in etc-duxnet/: the daemons and the trial chain."""

MODULES = {
    "flopd": [flopd, facts],
    "escrowd": [escrowd],
    "taskd": [taskd],
    "sandbox": [sandbox],
    "registryd": [registryd, eligibility, store],
    "airdropd": [airdropd, airdrop_methods, governance],
}


def declared() -> dict[str, list[MethodSpec]]:
    """Daemon → the declarations that it serves, besides those that all daemons serve."""
    found: dict[str, list[MethodSpec]] = {}
    for daemon, modules in MODULES.items():
        classes = [
            item
            for module in modules
            for item in vars(module).values()
            if isinstance(item, type) and item.__module__ == module.__name__
        ]
        found[daemon] = [spec for cls in classes for spec in specs_of(cls)]
    return found


def documents() -> dict[str, dict[str, Any]]:
    """Daemon → its OpenRPC document."""
    common = specs_of(CommonMethods)
    return {daemon: document(daemon, [*common, *specs]) for daemon, specs in declared().items()}


def catalogue() -> dict[str, Any]:
    """What dux-ctl reads: every method with its daemon, and all schemas."""
    methods: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    for daemon, openrpc in documents().items():
        schemas.update(openrpc["components"]["schemas"])
        for entry in openrpc["methods"]:
            methods[entry["name"]] = {
                "daemon": daemon,
                "summary": entry["summary"],
                "description": entry["description"],
                "access": entry["x-access"],
                "peers": entry["x-peers"],
                "params": entry["params"],
                "reply": entry["result"]["schema"],
                "errors": [error["message"] for error in entry["errors"]],
                "example": entry["examples"][0]["params"],
            }
    return {"methods": dict(sorted(methods.items())), "schemas": dict(sorted(schemas.items()))}


def reference(found: dict[str, Any]) -> str:
    """The page docs/reference.md."""
    lines = ["# Methods, errors and exit statuses", "", "Made from the declarations by `build_script/generate.py`.", ""]
    daemon = ""
    for name, entry in sorted(found["methods"].items(), key=lambda item: (item[1]["daemon"], item[0])):
        if entry["daemon"] != daemon:
            daemon = entry["daemon"]
            lines += [""] if lines[-1] else []
            lines += [f"## dux-{daemon}", "", "| method | parameters | who | what |", "|---|---|---|---|"]
        params = ", ".join(p["name"] + ("" if p["required"] else "?") for p in entry["params"])
        who = entry["access"] + (", other nodes" if entry["peers"] and entry["access"] != "peer" else "")
        lines.append(f"| `{name}` | {params} | {who} | {entry['summary']} |")
    lines += ["", "## Errors", "", "| code | name | can a retry help | what to do |", "|---|---|---|---|"]
    lines += [
        f"| {code} | {error.__name__} | {'yes' if error.retry else 'no'} | {error.hint_default} |"
        for code, error in sorted(BY_CODE.items())
    ]
    lines += ["", "## Exit statuses of dux-ctl", "", "| status | meaning |", "|---|---|"]
    lines += [f"| {status} | {meaning} |" for status, meaning in exits.MEANINGS.items()]
    return "\n".join(lines) + "\n"


def outputs() -> dict[Path, str]:
    """Path → the content it should have."""
    found = catalogue()
    return {
        **{ROOT / "etc-duxnet" / f"{name}.yaml": config(name, model) for name, model in CONFIGURED.items()},
        ROOT / "dux_ctl" / "methods.json": json.dumps(found, indent=1, sort_keys=False) + "\n",
        ROOT / "docs" / "dux-ctl.1": man_page(found),
        **{ROOT / "docs" / name: page for name, page in other_pages().items()},
        ROOT / "docs" / "reference.md": reference(found),
        ROOT / "docs" / "states.md": pages.states(),
        ROOT / "docs" / "settings.md": pages.settings(CONFIGURED),
    }


def main() -> int:
    """Write or check; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file is stale")
    check = parser.parse_args().check
    stale = [p for p, text in outputs().items() if not p.exists() or p.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{'stale' if check else 'written'}: {path.relative_to(ROOT)}")
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(outputs()[path], encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())

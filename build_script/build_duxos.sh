#!/bin/sh
# Builds the live image of Dux OS; build_script/image.py does the work, with nothing but Python's standard library.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
if ! command -v python3 >/dev/null; then
	echo "build_duxos.sh: python3 is needed; now, as root: apt install python3" >&2
	exit 1
fi
exec python3 "$here/image.py" "$@"

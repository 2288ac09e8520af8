#!/usr/bin/env bash
# LMDB and containers: the first processes of two containers both have process id 1, and LMDB knows its readers by process id.
#
# Expected by most: any number of processes of one machine may read one store at a time; that is what LMDB is for.
# Seen: a reader with the id of another reader of another PID namespace is refused: LMDB locks the byte of its id in the lock file, and the
# other process holds that lock. With ids of their own both read. (Opening reads too.)
#
# Needs Linux, root (for new PID namespaces) and Python 3 with venv; takes ten seconds; writes to a temporary folder only.
set -euo pipefail
LMDB=3.0.0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "lmdb==$LMDB"
python=$work/venv/bin/python

"$python" - "$work/store" <<'EOF'
import lmdb, sys
with lmdb.open(sys.argv[1]) as store, store.begin(write=True) as change:
    change.put(b"key", b"value")
print("lmdb", lmdb.__version__, "with LMDB", ".".join(map(str, lmdb.version())))
EOF

cat >"$work/reader.py" <<'EOF'
"""Reads one value; "first" goes on reading until its input ends."""
import lmdb, os, sys
try:
    store = lmdb.open(sys.argv[1], readonly=True)
    with store.begin() as reading:
        print(f"process id {os.getpid()}: read {reading.get(b'key')!r}", flush=True)
        if sys.argv[2] == "first":
            sys.stdin.read()
except lmdb.Error as error:
    print(f"process id {os.getpid()}: {type(error).__name__}: {error}", flush=True)
    sys.exit(3)
EOF

# The first reader, process id 1 of its namespace, reads until its input ends.
mkfifo "$work/end"
unshare --pid --fork "$python" "$work/reader.py" "$work/store" first <"$work/end" >"$work/first" &
exec 9>"$work/end"
for _ in $(seq 100); do grep -q read "$work/first" && break; sleep 0.1; done
cat "$work/first"

echo "a second reader, process id 1 of another namespace:"
same=0
unshare --pid --fork "$python" "$work/reader.py" "$work/store" second </dev/null || same=$?
echo "a second reader with an id of its own:"
own=0
unshare --pid --fork sh -c 'true; true; "$@"; exit $?' sh "$python" "$work/reader.py" "$work/store" second </dev/null || own=$?
exec 9>&-
wait

if [ "$same" = 3 ] && [ "$own" = 0 ]; then
    echo "as found with lmdb $LMDB: the same process id in two namespaces is refused, another one is not"
else
    echo "changed: exit status $same with the same process id (3 before), $own with another (0 before)"
    exit 1
fi

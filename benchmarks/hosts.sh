#!/usr/bin/env bash
# Several hosts for real: network namespaces on one machine, each with an address, a name and processes of its own.
# Postgres runs in one, a worker in each of three others. The host whose trial has got furthest is cut off for a while:
# its trial must go on elsewhere from its checkpoint, and when it is back it must find out and write nothing.
#
#   benchmarks/hosts.sh [SECONDS]       60 without; as root, with iproute2 and util-linux. About 6 minutes.
#
# Everything happens inside namespaces of the script's own: nothing of it is left, and no address meets the machine's.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
if [ -z "${QUELL_HOSTS:-}" ]; then
    QUELL_HOSTS=1 exec unshare --net --mount --pid --fork --mount-proc "$0" "$@"
fi
cut=${1:-60}
python=${PYTHON:-$here/.venv/bin/python}
place=$(mktemp -d /tmp/quell-hosts-XXXXXX)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$place"' EXIT
mount -t tmpfs tmpfs /run # where ip keeps the names of namespaces
mkdir /run/netns "$place/runs"
cd "$place"

cat >hosts.toml <<'END'
[study]
name = "hosts"
trials = 2
score = "si_sdr"
pruner = "none"
[corpus]
synthetic = true
clean = "speech"
noise = "noise"
sample_rate = 16000
snr_db = [-5.0, 20.0]
group_clean = "parent"
group_noise = '^([a-z]+\d+)-'
[training]
segment_s = 1.0
audio_hours = 3.5
rungs_audio_hours = [0.5, 1.0, 2.0, 3.5]
validation_mixtures = 12
[search]
learning_rate = { low = 0.001, high = 0.003, log = true }
END

# A bridge, and a wire from it to each host.
ip link set lo up
ip link add name switch type bridge
ip link set switch up
number=0
for host in database one two three; do
    number=$((number + 1))
    ip netns add "$host"
    ip link add "wire-$host" type veth peer name eth0 netns "$host"
    ip link set "wire-$host" master switch up
    ip -n "$host" link set lo up
    ip -n "$host" addr add "10.83.0.$number/24" dev eth0
    ip -n "$host" link set eth0 up
done

# On a host: its network, its name, and no process of the others in sight.
on() {
    local host=$1
    shift
    ip netns exec "$host" unshare --uts --pid --fork --kill-child --mount-proc \
        sh -c 'hostname "$0" && exec "$@"' "$host" env -u QUELL_HOSTS "$@"
}
ask() { # prints what a line of Python finds in the study
    on database env QUELL_STORAGE="$url" "$python" - "$@" <<'END'
import os, sys
import optuna
from quell_tuning.storage.backends import open_storage
study = optuna.load_study(study_name="hosts", storage=open_storage(os.environ["QUELL_STORAGE"]))
trials = study.trials
running = [t for t in trials if t.state.name == "RUNNING" and t.user_attrs.get("worker")]
print(eval(sys.argv[1]))
END
}
say() { echo "$(date -u +%T) $*"; }
until_true() { # SECONDS EXPRESSION
    local left=$1
    until [ "$(ask "$2")" = True ]; do
        left=$((left - 3))
        [ "$left" -gt 0 ] || { say "waited in vain: $2"; tail -n 5 ./*.log; exit 1; }
        sleep 2
    done
}

on database "$python" - "$place/postgres" >database.log 2>&1 <<'END' &
import sys, time
from pathlib import Path
from quell_tuning.storage.postgres_server import Cluster
cluster = Cluster(Path(sys.argv[1]), "hosts", 5432, "10.83.0.1")
cluster.init()
with (cluster.data / "pg_hba.conf").open("a") as rules:
    rules.write("host all all 10.83.0.0/24 scram-sha-256\n")
cluster.start()
print("up", flush=True)
time.sleep(3600)
END
url=postgresql+psycopg://postgres:hosts@10.83.0.1:5432/postgres
until grep -q up database.log; do sleep 0.2; done

common=(env "QUELL_STORAGE=$url" "QUELL_RUNS=$place/runs" OMP_NUM_THREADS=1 "$python" -m quell_tuning.cli)
on one "${common[@]}" tune hosts.toml --workers 0 >made.log 2>&1 || { cat made.log; exit 1; }
say "$(grep 'trials left' made.log)"
for host in one two three; do # the third finds nothing to do yet
    on "$host" "${common[@]}" worker hosts.toml --device cpu >"$host.log" 2>&1 &
    eval "worker_$host=\$!"
    [ "$host" = three ] || until_true 90 "any(t.user_attrs['worker'].startswith('$host:') for t in running)"
done
until_true 120 "len(running) == 2 and min(len(t.intermediate_values) for t in running) >= 1"
victim=$(ask "max(running, key=lambda t: t.user_attrs['lease'][1]).user_attrs['worker'].partition(':')[0]")
trial=$(ask "next(t.number for t in running if t.user_attrs['worker'].startswith('$victim:'))")
say "host $victim has trial $trial after $(ask "trials[$trial].user_attrs['lease'][1]") h of audio; cut off for $cut s"

ip link set "wire-$victim" down
began=$SECONDS
until_true 90 "any('lost' in t.user_attrs for t in trials)"
say "taken for lost after $((SECONDS - began)) s: $(ask "next(t.user_attrs['lost'] for t in trials if 'lost' in t.user_attrs)")"
until_true 60 "any(t.user_attrs.get('attempt') == 2 and t.user_attrs.get('worker') for t in trials)"
say "goes on as trial $(ask "next((t.number, t.user_attrs['worker'].partition(':')[0]) for t in trials if t.user_attrs.get('attempt') == 2)")"
[ $((SECONDS - began)) -ge "$cut" ] || sleep $((cut - SECONDS + began))
before=$(ask "repr(trials[$trial])" | md5sum)
ip link set "wire-$victim" up
say "host $victim is back"

deadline=$((SECONDS + 60))
until grep -q "trial $trial dropped" "$victim.log"; do
    [ $SECONDS -lt $deadline ] || { say "host $victim did not find out"; tail "$victim.log"; exit 1; }
    sleep 1
done
say "host $victim: $(grep -o "trial $trial dropped.*" "$victim.log")"
wait "$worker_one" "$worker_two" "$worker_three"
say "all workers ended with 0"
after=$(ask "repr(trials[$trial])" | md5sum)
[ "$before" = "$after" ] || { say "trial $trial was written to"; exit 1; }
say "trial $trial is as it was when host $victim came back"
ended=$(ask "sum(t.state.name == 'COMPLETE' for t in trials), sum('lost' in t.user_attrs for t in trials)")
say "complete, lost: $ended"
[ "$ended" = "(2, 1)" ] || exit 1
[ -z "$(find runs/hosts -name "$(printf %05d "$trial").weights")" ] || { say "trial $trial has weights"; exit 1; }
[ "$(ls runs/hosts/checkpoints 2>/dev/null | wc -l)" = 0 ] || { say "a checkpoint is left"; exit 1; }
say "$(on database env "QUELL_STORAGE=$url" "QUELL_RUNS=$place/runs" "$python" -m quell_tuning.cli status hosts --json | head -c 120)..."

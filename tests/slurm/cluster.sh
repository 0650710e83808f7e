#!/usr/bin/env bash
# Runs a command on a Slurm cluster that exists while it runs:
#
#   tests/slurm/cluster.sh COMMAND [ARGUMENT ...]
#
# One node on loopback: munged, slurmctld and slurmd of Debian's packages, which
# are installed if they are absent. All that they write is in a temporary folder,
# and they end with the command, however it ends. No systemd, no cgroups, no
# accounting. Needs root, since slurmd starts jobs as their users.
set -euo pipefail

say() { echo "cluster.sh: $*" >&2; }

[ $# -gt 0 ] || { say "name a command to run"; exit 2; }
[ "$(id -u)" = 0 ] || { say "slurmd needs root; run as root"; exit 2; }
if ! { command -v slurmctld && command -v slurmd && command -v munged; } \
  >/dev/null; then
  command -v apt-get >/dev/null || {
    say "no slurmctld, slurmd and munged, and no apt-get: install Slurm"
    exit 2
  }
  say "installing slurm-wlm and munge"
  apt-get update -qq
  # At this runlevel the packages start no daemons of their own.
  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
    --no-install-recommends slurm-wlm munge >/dev/null
fi

home="$(mktemp -d -t fmjax-slurm-XXXXXX)"
chmod 755 "$home" # munge refuses sockets that others cannot reach
mkdir "$home/state" "$home/spool"
node="$(hostname -s)"
export SLURM_CONF="$home/slurm.conf"
daemons=()
command_pid=

stop() {
  local code=$? pid
  trap - EXIT
  trap '' INT TERM HUP
  [ -z "$command_pid" ] || kill "$command_pid" 2>/dev/null || true
  # Each job has a process that outlives the daemons: it must end before them.
  timeout 10 scancel --me --signal=KILL >/dev/null 2>&1 || true
  timeout 10 scancel --me >/dev/null 2>&1 || true
  for _ in $(seq 300); do
    [ -n "$(timeout 10 squeue --noheader 2>/dev/null)" ] || break
    sleep 0.1
  done
  for pid in $(printf '%s\n' "${daemons[@]}" | tac); do
    kill "$pid" 2>/dev/null || true
  done
  for pid in "${daemons[@]}"; do
    for _ in $(seq 100); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  [ "$code" = 0 ] || tail -n 20 "$home"/*.log >&2 || true
  rm -rf "$home"
  exit "$code"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

read -r control_port node_port < <(python3 - <<'PY'
import contextlib
import socket

with contextlib.ExitStack() as stack:
  for _ in range(2):
    free = stack.enter_context(socket.socket())
    free.bind(("127.0.0.1", 0))
    print(free.getsockname()[1], end=" ")
print()
PY
)

dd if=/dev/urandom of="$home/munge.key" bs=128 count=1 status=none
chmod 600 "$home/munge.key"
cat >"$SLURM_CONF" <<CONF
ClusterName=loopback
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
SlurmctldPort=$control_port
SlurmdPort=$node_port
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool
SlurmctldPidFile=$home/slurmctld.pid
SlurmdPidFile=$home/slurmd.pid
AuthType=auth/munge
# A job that is queued again waits for as long as its credential lasts.
AuthInfo=socket=$home/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,batch_sched_delay=0
ReturnToService=2
KillWait=20
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(getconf _NPROCESSORS_ONLN) State=UNKNOWN
PartitionName=test Nodes=$node Default=YES MaxTime=INFINITE State=UP
CONF

# In the foreground: children of this script, so that it can end them.
munged --foreground --force --socket="$home/munge.socket" \
  --key-file="$home/munge.key" --pid-file="$home/munged.pid" \
  --log-file="$home/munged.log" --seed-file="$home/munged.seed" \
  >"$home/munged.log" 2>&1 &
daemons+=($!)
for _ in $(seq 100); do
  [ -S "$home/munge.socket" ] && break
  sleep 0.1
done
slurmctld -D -i >"$home/slurmctld.log" 2>&1 &
daemons+=($!)
slurmd -D -N "$node" >"$home/slurmd.log" 2>&1 &
daemons+=($!)
for _ in $(seq 300); do
  [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ] && break
  for pid in "${daemons[@]}"; do
    kill -0 "$pid" 2>/dev/null || { say "a daemon ended"; exit 1; }
  done
  sleep 0.1
done
[ "$(sinfo --noheader --format=%t)" = idle ] || {
  say "the node is not ready: $(sinfo --noheader)"
  exit 1
}
say "one node is ready: $(sinfo --noheader --format='%n, CPUs: %c, %t')"
# Beside this script, which would else not hear a signal before the command ends.
"$@" <&0 &
command_pid=$!
wait "$command_pid"

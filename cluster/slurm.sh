#!/usr/bin/env bash
# The pipeline on the nodes of a SLURM job (docs/cluster.md). In the project's folder, on a file system that all nodes see:
#   sbatch cluster/slurm.sh [ARGUMENT OF dvc repro...]
#SBATCH --job-name=ie
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
# Ray is started and stopped on whole nodes: `ray stop` ends every Ray of the user on a node.
#SBATCH --exclusive
# After a preemption or a lost node the job starts again, and `dvc repro` resumes from the last checkpoint.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit it with sbatch}"
export PATH=$PWD/.venv/bin:$PATH DVC_NO_ANALYTICS=1 RAY_USAGE_STATS_ENABLED=0

# A key to this job's Ray, in a file that its owner alone can read: whoever reaches the ports could run code here.
umask 077
mkdir -p .runs
key=$PWD/.runs/slurm-$SLURM_JOB_ID.key
trap 'rm -f "$key"' EXIT
python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$key"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$key
unset RAY_AUTH_TOKEN RAY_ADDRESS

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(getent ahostsv4 "$first" | awk 'NR == 1 { print $1 }'):$((20000 + SLURM_JOB_ID % 10000))
# Ray on each node; when all are there, the command on the first; then Ray is stopped and the command's exit code returned.
srun --kill-on-bad-exit=1 ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
  -- env RAY_ADDRESS="$address" dvc repro "$@"

#!/bin/bash
# Workers on a Slurm cluster: `sbatch deploy/slurm.sh STUDY`, after `quell tune STUDY --workers 0` has made the study.
#
# All of them need the storage (QUELL_STORAGE, or --storage-file in QUELL_OPTIONS), the recordings (QUELL_CORPUS) and a
# folder that they share (QUELL_RUNS), or QUELL_ARTIFACTS=s3://BUCKET/PREFIX in its place.
#SBATCH --job-name=quell
#SBATCH --array=0-7
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --gres=gpu:1
#SBATCH --mem=12G
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@60
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=quell-%A-%a.log
set -u
study=${1:?a study file}

export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-4}
# Slurm tells the worker a minute before its time is over; it hands its trial back and leaves with 143. Then the job
# goes back in line: whoever is first, it or another worker, goes on with the trial.
srun quell worker "$study" ${QUELL_OPTIONS:-}
code=$?
if [ "$code" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

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
# Slurm tells the worker a minute or two before its time is over; it hands its trial back and leaves with 143. Then the
# task goes back in line, for about two minutes: whoever is first, it or another worker, goes on with the trial.
# srun takes the CPUs of a task from nobody but its own option (since Slurm 22.05).
srun --cpus-per-task="$OMP_NUM_THREADS" quell worker "$study" ${QUELL_OPTIONS:-}
code=$?
if [ "$code" -eq 143 ]; then
    # By ARRAY_TASK: one of the tasks has the array's own number, by which all of them would go back in line.
    scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
fi
exit "$code"

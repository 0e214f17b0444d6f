#!/bin/sh
# Makes the passwords that docker-compose.yml reads, where there are none yet: nobody but their owner can read them.
set -eu
umask 077
folder=${QUELL_SECRETS:-secrets}
mkdir -p "$folder"
for name in postgres_password dashboard_password; do
    if [ ! -s "$folder/$name" ]; then
        head -c 24 /dev/urandom | base64 | tr '+/' '-_' >"$folder/$name"
    fi
done

#!/bin/sh
# Writes what the image installs, each package with its version and the hashes of its files: after a change of
# constraints.txt or of the dependencies in pyproject.toml. Needs uv. Hashes are those of all platforms and Pythons.
set -eu
cd "$(dirname "$0")"
uv pip compile ../../pyproject.toml --constraint ../../constraints.txt --python-version 3.11 --python-platform linux \
    --extra grpc --extra onnx --extra rooms --extra s3 --extra wandb \
    --generate-hashes --no-header --no-annotate --quiet |
    awk '
        /^[a-z0-9]/ {
            # torch alone is replaced by another one for an image without CUDA; pesq alone is compiled, with numpy.
            file = "packages.txt"
            if ($1 ~ /^(torch|triton|nvidia-|cuda-)/) file = "torch.txt"
            if ($1 ~ /^pesq=/) file = "pesq.txt"
        }
        { print > file }
    '

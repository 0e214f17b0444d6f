# Quell in a container. Two variants, by what torch is built for:
#   docker build .                                  with CUDA, as PyPI has it
#   docker build --build-arg TORCH_INDEX=URL .      CPU alone: URL is the package index that pytorch.org names for it
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# pesq is compiled; the compiler stays behind in this stage.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/quell
WORKDIR /build
COPY constraints.txt ./
ARG TORCH_INDEX=
# A layer of its own, and the largest: it stays when Quell changes.
RUN PIP_EXTRA_INDEX_URL=${TORCH_INDEX} /opt/quell/bin/pip install --no-cache-dir --constraint constraints.txt torch
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src src
COPY tuning tuning
COPY studies studies
# ray besides, for the nodes of a Ray cluster.
ARG EXTRAS=grpc,onnx,rooms,s3,wandb
RUN PIP_EXTRA_INDEX_URL=${TORCH_INDEX} PIP_CONSTRAINT=constraints.txt \
    /opt/quell/bin/pip install --no-cache-dir ".[${EXTRAS}]"

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/quell /opt/quell
# Any user may run it (docker run --user, compose's QUELL_USER), the same one on each volume of runs: what one has made
# there no other may write to.
RUN useradd --uid 1000 --create-home quell && install --directory --mode 1777 /srv/quell/runs
ENV PATH=/opt/quell/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    QUELL_RUNS=/srv/quell/runs \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /srv/quell
ENTRYPOINT ["quell"]
CMD ["--help"]

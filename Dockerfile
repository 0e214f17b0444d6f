# Quell in a container. Two variants, by what torch is built for:
#   docker build .                                  with CUDA, as PyPI has it
#   docker build --build-arg TORCH_INDEX=URL .      CPU alone: URL is the package index that pytorch.org names for it
#
# Every package is checked against the hashes in deploy/requirements, which update.sh there writes: pip takes no other
# file. Not so torch itself from TORCH_INDEX, whose files are others, and packages of further EXTRAS: their versions are
# those of constraints.txt.
#
# The digest is that of the index of all platforms. It was taken from public repositories that pin the same tag, five of
# which agree, and could not be asked of a registry where this file was written: compare it with what
# `docker buildx imagetools inspect python:3.11.14-slim-bookworm` prints. With a wrong one nothing is built.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

FROM ${PYTHON_IMAGE} AS build
# pesq is compiled; the compiler stays behind in this stage.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/quell
WORKDIR /build
COPY constraints.txt ./
COPY deploy/requirements requirements
ENV PIP_NO_CACHE_DIR=1 PIP_NO_DEPS=1
ARG TORCH_INDEX=
# A layer of its own, and the largest: it stays when Quell changes.
RUN if [ -z "${TORCH_INDEX}" ]; then \
        /opt/quell/bin/pip install --require-hashes --requirement requirements/torch.txt; \
    else \
        /opt/quell/bin/pip install --index-url "${TORCH_INDEX}" --constraint constraints.txt torch; \
    fi
RUN /opt/quell/bin/pip install --require-hashes --requirement requirements/packages.txt \
    && /opt/quell/bin/pip install --require-hashes --no-build-isolation --requirement requirements/pesq.txt
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src src
COPY tuning tuning
COPY studies studies
RUN /opt/quell/bin/pip install --no-build-isolation .
# Besides grpc, onnx, rooms, s3 and wandb: ray, for the nodes of a Ray cluster.
ARG EXTRAS=
RUN if [ -n "${EXTRAS}" ]; then \
        PIP_NO_DEPS= PIP_CONSTRAINT=constraints.txt PIP_EXTRA_INDEX_URL=${TORCH_INDEX} \
            /opt/quell/bin/pip install ".[${EXTRAS}]"; \
    fi \
    && /opt/quell/bin/pip check

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

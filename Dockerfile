# A server of workflows. Bases of the Debian family with Python 3.11 or newer:
#
#   docker build -t wfserve .                                                        CPU or GPU, as torch comes
#   docker build -t wfserve --build-arg TORCH_INDEX=<PyTorch's index for CPUs> .     CPU, gigabytes smaller
#   docker build -t wfserve --build-arg BASE=nvidia/cuda:12.8.1-base-ubuntu24.04 .   a CUDA base
#
# docs/operating.md says how it is run.
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
# Empty: where pip finds everything else.
ARG TORCH_INDEX=
ARG TORCH=torch
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && (command -v python3 || apt-get install -y --no-install-recommends python3-dev python3-venv) \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/wfserve \
    && /opt/wfserve/bin/pip install ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} "${TORCH}"
WORKDIR /src
COPY pyproject.toml CMakeLists.txt README.md LICENSE ./
COPY native native
COPY wfserve wfserve
RUN /opt/wfserve/bin/pip wheel --no-deps -w /dist . \
    && /opt/wfserve/bin/pip install /dist/wfserve-*.whl

FROM ${BASE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini \
    && (command -v python3 || apt-get install -y --no-install-recommends python3) \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --home-dir /var/lib/wfserve --create-home wfserve \
    && mkdir -p /var/lib/wfserve/state /srv/store \
    && chown -R wfserve:wfserve /var/lib/wfserve
COPY --from=build /opt/wfserve /opt/wfserve
ENV PATH=/opt/wfserve/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    WFSERVE_STATE_DIR=/var/lib/wfserve/state \
    WFSERVE_WORKFLOW_STORE=/srv/store \
    WFSERVE_INFERENCE_ADDRESS=http://0.0.0.0:8080 \
    WFSERVE_MANAGEMENT_ADDRESS=http://0.0.0.0:8081 \
    WFSERVE_METRICS_ADDRESS=http://0.0.0.0:8082
USER 10001
# key_file.json is written here: beyond loopback clients show tokens.
WORKDIR /var/lib/wfserve
VOLUME ["/var/lib/wfserve/state", "/srv/store"]
EXPOSE 8080 8081 8082
# The metrics address answers /ping without a token.
HEALTHCHECK --interval=30s --timeout=10s --start-period=10m \
    CMD ["wfserve", "ping", "--server", "http://127.0.0.1:8082"]
STOPSIGNAL SIGTERM
# As process 1 tini collects what handlers leave behind; the server does not.
ENTRYPOINT ["tini", "--", "wfserve"]
CMD ["serve"]

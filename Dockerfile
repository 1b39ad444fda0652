# syntax=docker/dockerfile:1
# One image for every service; the command chooses which. Targets: `cpu` (default) and `gpu`.

FROM python:3.11-slim AS dependencies
WORKDIR /build
# Packages without their code: what they need is installed in a layer that code does not change.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir rag services \
    && touch rag/__init__.py services/__init__.py \
    && python -m venv --without-pip /opt/ragstone
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_PYTHON=/opt/ragstone/bin/python \
    PIP_ROOT_USER_ACTION=ignore

FROM dependencies AS build-cpu
# torch X+cpu satisfies the pin torch==X and sorts above the X that brings CUDA.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt \
        --extra-index-url https://download.pytorch.org/whl/cpu '.[otel,postgres]'
COPY rag rag
COPY services services
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --force-reinstall .

FROM dependencies AS build-gpu
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt '.[otel,postgres]'
COPY rag rag
COPY services services
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --force-reinstall .

FROM python:3.11-slim AS runtime
# Nothing is installed after this. A new named volume takes the owner of the folder it covers.
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore pip setuptools wheel \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /tmp ragstone \
    && mkdir /data /models \
    && chown 10001:10001 /data /models
ENV PATH=/opt/ragstone/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    HF_HOME=/models \
    RAG_CACHE=/models/converted \
    RAG_DATA=/data \
    RAG_HOST=0.0.0.0
USER 10001:10001
WORKDIR /data
EXPOSE 8000
CMD ["python", "-m", "services.app"]

FROM runtime AS gpu
COPY --from=build-gpu /opt/ragstone /opt/ragstone

FROM runtime AS cpu
COPY --from=build-cpu /opt/ragstone /opt/ragstone

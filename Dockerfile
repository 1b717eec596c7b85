# One image a stage:
#   serving    predictor, transformer: KServe model servers on ONNX Runtime; no torch, Ray, KFP, MLflow or CUDA
#   training   torch, Ray and MLflow for RayJobs, kfp for pipeline steps
# Layers that cost most to make come first and change least: Debian's Python, the locked packages, then the code.
#   make images BUILDER=docker|buildah|PATH
FROM docker.io/library/debian:bookworm-slim AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app \
    PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp \
    UV_PYTHON=/usr/bin/python3 \
    UV_PYTHON_DOWNLOADS=never \
    UV_NO_CACHE=1 \
    UV_COMPILE_BYTECODE=1
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 ca-certificates \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb \
 && groupadd --gid 10001 mailtriage \
 && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin mailtriage
WORKDIR /app

# uv, itself locked, installs the locks.
FROM base AS uv
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*
COPY requirements/uv.txt requirements/
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements/uv.txt

FROM uv AS serving-packages
COPY requirements/serve.txt requirements/
RUN /opt/uv/bin/uv venv /opt/venv && /opt/uv/bin/uv pip install --python /opt/venv --require-hashes -r requirements/serve.txt

FROM base AS serving
COPY --from=serving-packages /opt/venv /opt/venv
COPY taxonomy.yaml ./
COPY mailtriage mailtriage
COPY serving serving
LABEL org.opencontainers.image.title="mailtriage serving" \
      org.opencontainers.image.description="Predictor and transformer of mailtriage: KServe model servers on ONNX Runtime" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
EXPOSE 8080
ENTRYPOINT ["python", "-m", "serving"]

FROM base AS training
# uv stays in this image: copying gigabytes out of a stage of its own would double the disk that a build takes.
COPY --from=uv /opt/uv/bin/uv /usr/local/bin/uv
COPY requirements/train.txt requirements/
RUN uv venv /opt/venv && uv pip install --python /opt/venv --require-hashes -r requirements/train.txt
# What only pipeline steps need, in a layer of its own: the one above has gigabytes.
COPY requirements/pipelines.txt requirements/
RUN uv pip install --python /opt/venv --require-hashes -r requirements/pipelines.txt
COPY taxonomy.yaml ./
COPY configs configs
COPY mailtriage mailtriage
COPY components components
COPY pipelines pipelines
LABEL org.opencontainers.image.title="mailtriage training" \
      org.opencontainers.image.description="Training of mailtriage: torch, Ray, MLflow and the pipeline steps" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
CMD ["python", "-m", "mailtriage.cli", "--help"]

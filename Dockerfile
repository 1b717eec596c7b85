# One image a stage:
#   serving    predictor, transformer: KServe model servers on ONNX Runtime; no torch, Ray, KFP, MLflow or CUDA
#   training   torch, Ray and MLflow for RayJobs, kfp for the pipeline step that may use Ray
#   platform   the other pipeline steps, among them the one that makes RayJobs and follows them; no torch, no Ray
# Layers that cost most to make come first and change least: Debian's Python, the locked packages and their list, then the code.
# Version, revision and source are labels that `make images` gives.
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
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/apt /var/log/dpkg.log \
 && groupadd --gid 10001 mailtriage \
 && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin mailtriage
WORKDIR /app

# uv, itself locked, installs the locks.
FROM base AS uv
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*
COPY requirements/uv.txt requirements/
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements/uv.txt

# What writes an image's list of packages (SBOM); it is mounted there, and stays in no image.
FROM uv AS sbom
COPY requirements/sbom.txt requirements/
RUN /opt/uv/bin/uv venv /opt/sbom && /opt/uv/bin/uv pip install --python /opt/sbom --require-hashes -r requirements/sbom.txt
COPY requirements/sbom /opt/sbom/bin/
COPY pyproject.toml /opt/sbom/

FROM uv AS serving-packages
COPY requirements/serve.txt requirements/
RUN /opt/uv/bin/uv venv /opt/venv && /opt/uv/bin/uv pip install --python /opt/venv --require-hashes -r requirements/serve.txt

FROM base AS serving
COPY --from=serving-packages /opt/venv /opt/venv
RUN --mount=type=bind,from=sbom,source=/opt/sbom,target=/opt/sbom \
    PATH=/opt/sbom/bin:$PATH sbom serving /opt/sbom/pyproject.toml /opt/venv / /usr/share/sbom/mailtriage-serving.cdx.json
COPY taxonomy.yaml ./
COPY mailtriage mailtriage
COPY serving serving
LABEL org.opencontainers.image.title="mailtriage serving" \
      org.opencontainers.image.description="Predictor and transformer of mailtriage: KServe model servers on ONNX Runtime" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim" \
      mailtriage.sbom="/usr/share/sbom/mailtriage-serving.cdx.json"
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
RUN --mount=type=bind,from=sbom,source=/opt/sbom,target=/opt/sbom \
    PATH=/opt/sbom/bin:$PATH sbom training /opt/sbom/pyproject.toml /opt/venv / /usr/share/sbom/mailtriage-training.cdx.json
COPY taxonomy.yaml ./
COPY configs configs
COPY mailtriage mailtriage
COPY components components
COPY pipelines pipelines
LABEL org.opencontainers.image.title="mailtriage training" \
      org.opencontainers.image.description="Training of mailtriage: torch, Ray, MLflow and the pipeline steps" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim" \
      mailtriage.sbom="/usr/share/sbom/mailtriage-training.cdx.json"
USER 10001:10001
CMD ["python", "-m", "mailtriage.cli", "--help"]

FROM uv AS platform-packages
COPY requirements/platform.txt requirements/
RUN /opt/uv/bin/uv venv /opt/venv && /opt/uv/bin/uv pip install --python /opt/venv --require-hashes -r requirements/platform.txt

FROM base AS platform
COPY --from=platform-packages /opt/venv /opt/venv
RUN --mount=type=bind,from=sbom,source=/opt/sbom,target=/opt/sbom \
    PATH=/opt/sbom/bin:$PATH sbom platform /opt/sbom/pyproject.toml /opt/venv / /usr/share/sbom/mailtriage-platform.cdx.json
COPY taxonomy.yaml ./
COPY configs configs
COPY mailtriage mailtriage
COPY components components
COPY pipelines pipelines
COPY manifests/training manifests/training
LABEL org.opencontainers.image.title="mailtriage platform" \
      org.opencontainers.image.description="Pipeline steps of mailtriage that neither train nor use Ray, and what makes and follows RayJobs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim" \
      mailtriage.sbom="/usr/share/sbom/mailtriage-platform.cdx.json"
USER 10001:10001
CMD ["python", "-m", "pipelines", "--help"]

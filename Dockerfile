# syntax=docker/dockerfile:1
# odis in a container; docs/docker.md has the commands.
#   docker build -t odis .                                CPU
#   docker build -t odis:cuda --build-arg TORCH=cu128 .   CUDA
ARG PYTHON=3.13

FROM python:${PYTHON}-slim-bookworm AS build
# PyTorch's wheels: cpu, or a version of CUDA, whose libraries come with them. The host has the driver.
ARG TORCH=cpu
# Extras of pyproject.toml, with commas between.
ARG EXTRAS=export,explore,tensorboard
ENV PATH=/opt/odis/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/odis
# Before the source: a change of it leaves these gigabytes in the layer cache.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --index-url "https://download.pytorch.org/whl/${TORCH}" "torch>=2.11,<2.16" "torchvision>=0.26"
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN --mount=type=cache,target=/root/.cache/pip pip install "/source[${EXTRAS}]"

FROM python:${PYTHON}-slim-bookworm
LABEL org.opencontainers.image.title="odis" \
      org.opencontainers.image.description="Pretrain Vision Transformers by object-level self-distillation" \
      org.opencontainers.image.licenses="Apache-2.0"
# Compiled loops, downloaded weights and fonts go into /cache, which any user may write to: with
# `docker run --user` the files of a run belong to whoever started it.
ENV PATH=/opt/odis/bin:$PATH XDG_CACHE_HOME=/cache MPLCONFIGDIR=/cache/matplotlib
RUN useradd --create-home --uid 1000 odis \
    && install --directory --mode 1777 /cache \
    && install --directory --owner odis /data
COPY --from=build /opt/odis /opt/odis
USER 1000
WORKDIR /data
ENTRYPOINT ["odis"]
CMD ["--help"]

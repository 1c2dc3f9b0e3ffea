# Images of the server with the `theria` command:
#
#   docker build --target cpu  -t theria:cpu .
#   docker build --target cuda -t theria:cuda .
#   docker run -p 50051:50051 -p 9464:9464 theria:cpu
#
# The build stage creates Debian packages, and the runtime image is its base with those packages. Their
# dependencies are read from the binaries. podman and buildah accept the same arguments and need
# `--format docker` to keep the health check. Build arguments in addition to the bases:
#
#   THERIA_CMAKE_ARGS   for CMake, for example -DCMAKE_CUDA_ARCHITECTURES=90 to build for one GPU
#   THERIA_JOBS         concurrent compilers; default: the number of cores
#   THERIA_BUILD        a new value for each build, for builders (buildah 1.28) that reuse a cached layer
#                       without checking what it mounts from another stage
#   CUDA_PACKAGES       additional NVIDIA packages for the cuda image; libcublas-13-0 (600 MB) adds the
#                       unfused implementation
ARG CPU_BASE=debian:bookworm-slim
ARG CUDA_BUILD_BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04
ARG CUDA_BASE=nvidia/cuda:13.0.1-base-ubuntu24.04

FROM ${CPU_BASE} AS cpu-build
WORKDIR /src
COPY scripts/install_packages.sh scripts/
RUN scripts/install_packages.sh
COPY client/python/constraints.txt client/python/
RUN python3 -m venv .venv && .venv/bin/pip install --no-cache-dir \
      --constraint client/python/constraints.txt googleapis-common-protos
COPY . .
ARG THERIA_CMAKE_ARGS
ARG THERIA_JOBS
RUN --mount=type=cache,target=/root/.cache/ccache deploy/container/build_packages.sh OFF

FROM ${CPU_BASE} AS cpu
ARG THERIA_BUILD
RUN --mount=type=bind,from=cpu-build,source=/src/build/packages,target=/packages \
    apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      /packages/theria-server_*.deb /packages/theria_*.deb && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* && \
    useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin theria && \
    install -d -o theria -g theria /run/theria
COPY deploy/container/server.toml /etc/theria/server.toml
USER 10001:10001
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s \
  CMD ["theria", "health", "unix:/run/theria/server.sock"]
ENTRYPOINT ["theria-server", "--config", "/etc/theria/server.toml"]

FROM ${CUDA_BUILD_BASE} AS cuda-build
WORKDIR /src
COPY scripts/install_packages.sh scripts/
RUN scripts/install_packages.sh
COPY client/python/constraints.txt client/python/
RUN python3 -m venv .venv && .venv/bin/pip install --no-cache-dir \
      --constraint client/python/constraints.txt googleapis-common-protos
COPY . .
ARG THERIA_CMAKE_ARGS
ARG THERIA_JOBS
RUN --mount=type=cache,target=/root/.cache/ccache deploy/container/build_packages.sh ON

FROM ${CUDA_BASE} AS cuda
ARG THERIA_BUILD
ARG CUDA_PACKAGES
RUN --mount=type=bind,from=cuda-build,source=/src/build/packages,target=/packages \
    apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      /packages/theria-server_*.deb /packages/theria_*.deb ${CUDA_PACKAGES} && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* && \
    useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin theria && \
    install -d -o theria -g theria /run/theria
COPY deploy/container/server.toml /etc/theria/server.toml
USER 10001:10001
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
  CMD ["theria", "health", "unix:/run/theria/server.sock"]
ENTRYPOINT ["theria-server", "--config", "/etc/theria/server.toml"]
CMD ["--backend", "cuda"]

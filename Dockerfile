# An image with both programs, git, ssh, a shell for git's credential helper, and
# certificates. It runs as uid 65532, or as any other; mount a volume that this
# user may write at /var/lib/c4a. It works read-only and without any capability.
# No init is needed: as process 1 the programs reap orphans and forward signals.
#
#   docker build -t c4a .
#   docker run -p 127.0.0.1:5110:5110 -v c4a:/var/lib/c4a -e C4A_API_TOKEN=… c4a
#   docker run -v "$PWD:/src:ro" c4a c4a-daemon --server example.com --allow /src
#
# Built and run by scripts/test-image.sh.
ARG GO_IMAGE=golang:1.26-bookworm
ARG DEBIAN_IMAGE=debian:bookworm-slim

FROM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
# With .git, from which the go command takes the version.
COPY . .
RUN scripts/build.sh c4a-daemon-scheduler /out/c4a-daemon-scheduler

FROM ${DEBIAN_IMAGE} AS root
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates dash git libnss-wrapper openssh-client
COPY scripts/rootfs.sh deploy/image/ssh /
RUN sh /rootfs.sh /rootfs
COPY --from=build /out/ /rootfs/usr/local/bin/
# The scheduler's file is the daemon under its name.
RUN ln -s c4a-daemon-scheduler /rootfs/usr/local/bin/c4a-daemon

FROM scratch
LABEL org.opencontainers.image.title=c4a-daemon \
      org.opencontainers.image.description="Daemons that serve files and git repositories, and their scheduler" \
      org.opencontainers.image.source=https://github.com/context4ai/c4a-daemon \
      org.opencontainers.image.licenses=MIT
COPY --from=root /rootfs/ /
USER 65532:65532
ENV PATH=/usr/local/bin:/usr/bin:/bin C4A_HOST=0.0.0.0 C4A_WORKSPACE=/var/lib/c4a
WORKDIR /var/lib/c4a
VOLUME /var/lib/c4a
EXPOSE 5110
HEALTHCHECK CMD ["c4a-daemon-scheduler", "--healthcheck"]
CMD ["c4a-daemon-scheduler"]

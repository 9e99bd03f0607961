# The images of gateways, services and backups: docs/how-to/containers.md.
#
#   docker build --target gateway -t passerelle .
#   docker build --target services -t passerelle-services .
#   docker build --target backup -t passerelle-backup .
#
# The images of gateways and services have no shell, no package manager and no compiler. Packages are built by the same
# version of Python that runs them: BUILD_BASE and BASE belong together.
ARG BUILD_BASE=python:3.13-slim-trixie
ARG BASE=gcr.io/distroless/python3-debian13
ARG BACKUP_BASE=postgres:17-trixie

FROM ${BUILD_BASE} AS build
WORKDIR /build
COPY requirements-build.lock requirements-image.lock ./
RUN python3 -m pip install --quiet --no-cache-dir --no-compile --require-hashes \
        --target /tools -r requirements-build.lock \
    && python3 -m pip install --quiet --no-cache-dir --no-compile --require-hashes \
        --target /opt/passerelle -r requirements-image.lock
COPY pyproject.toml README.md LICENSE ./
COPY src src
# Commands begin with the path of the Python that has installed them. Bytecode depends on no time of a file.
RUN PYTHONPATH=/tools python3 -m pip install --quiet --no-cache-dir --no-compile --no-deps --no-build-isolation \
        --target /own . \
    && cp -r /own/. /opt/passerelle/ \
    && sed -i '1s|^#!.*|#!/usr/bin/python3|' /opt/passerelle/bin/* \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/passerelle

FROM build AS build-services
ARG LOCK=requirements-shop.lock
COPY ${LOCK} services.lock
RUN python3 -m pip install --quiet --no-cache-dir --no-compile --require-hashes \
        --target /opt/services -r services.lock \
    && sed -i '1s|^#!.*|#!/usr/bin/python3|' /opt/services/bin/* \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/services

FROM build AS build-backup
COPY requirements-backup.lock ./
RUN python3 -m pip install --quiet --no-cache-dir --no-compile --require-hashes \
        --target /opt/backup -r requirements-backup.lock \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/backup

FROM ${BASE} AS gateway
COPY --from=build /opt/passerelle /opt/passerelle
ENV HOME=/tmp \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    PATH=/opt/passerelle/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/opt/passerelle \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /etc/passerelle
EXPOSE 8080
ENTRYPOINT []
CMD ["passerelle", "gateway", "/etc/passerelle/gateway.yaml"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9900/readyz', timeout=4)"]

FROM gateway AS services
ARG APP=examples/shop
COPY --from=build-services /opt/services /opt/services
COPY ${APP} /srv/app
ENV PATH=/opt/passerelle/bin:/opt/services/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/opt/passerelle:/opt/services
WORKDIR /srv/app
EXPOSE 5000
CMD ["passerelle", "up", "/srv/app/gateway.yaml"]

# The programs that dump and restore databases, of the version of the servers.
FROM ${BACKUP_BASE} AS backup
# A distribution has one version of a package at a time: a pinned one would be gone with its next correction.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o 10001 -g 10001 /backups
COPY --from=build /opt/passerelle /opt/passerelle
COPY --from=build-backup /opt/backup /opt/backup
ENV HOME=/tmp \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    PATH=/opt/passerelle/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONPATH=/opt/passerelle:/opt/backup \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /etc/passerelle
ENTRYPOINT []
CMD ["passerelle", "backup", "/etc/passerelle/gateway.yaml", "--to", "/backups"]
HEALTHCHECK NONE

# syncworker in a container: one image for `worker`, `beat`, `db upgrade` and every other command.
#
# Every package is fetched once, against the hashes of requirements.lock; what is installed comes from those files alone.
ARG PYTHON_VERSION=3.13

FROM python:${PYTHON_VERSION}-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY requirements.lock ./
RUN pip download --no-deps --require-hashes --only-binary :all: --requirement requirements.lock --dest /wheels
COPY pyproject.toml README.md LICENSE celeryconfig.py ./
COPY migrations ./migrations
COPY syncworker ./syncworker
RUN python -m venv /opt/syncworker \
    && /opt/syncworker/bin/pip install --no-index --find-links /wheels ".[postgres]" \
    && /opt/syncworker/bin/pip uninstall --yes pip

FROM python:${PYTHON_VERSION}-slim
RUN groupadd --gid 10001 syncworker \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/syncworker --shell /usr/sbin/nologin syncworker \
    && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/syncworker
COPY --from=build /opt/syncworker /opt/syncworker
ENV PATH=/opt/syncworker/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    SYNCWORKER_DATA_DIR=/var/lib/syncworker
WORKDIR /var/lib/syncworker
USER 10001:10001
STOPSIGNAL SIGTERM
# Of a worker; docker-compose.yml says what tells of the others.
HEALTHCHECK --interval=30s --timeout=25s --start-period=60s --retries=2 \
    CMD ["syncworker", "health", "--this-host"]
ENTRYPOINT ["syncworker"]
CMD ["worker"]

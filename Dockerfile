# The service on your PostgreSQL: FOREWARN_DATABASE_URL. Without it, the embedded one in /data.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 FOREWARN_DATA_DIR=/data
WORKDIR /srv/forewarn

COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes --requirement requirements.lock
COPY LICENSE README.md pyproject.toml ./
COPY alerts alerts
COPY app app
COPY migrations migrations
RUN pip install --no-cache-dir --no-deps --no-build-isolation . \
    && useradd --system --no-create-home --shell /usr/sbin/nologin forewarn \
    && install --directory --owner forewarn --group forewarn --mode 0700 /data

USER forewarn
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["forewarn"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]

# maenas on a CPU: search, train, evaluate, export, measure. Not built yet: written without Docker at hand.
#
#   docker build -f docker/cpu.Dockerfile -t maenas .
#   docker run --rm -v "$PWD:/work" maenas search --budget 3ms --device t4
FROM python:3.12-slim

RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch torchvision

COPY . /src
RUN pip install --no-cache-dir '/src[detector,export,report]'

WORKDIR /work
ENTRYPOINT ["maenas"]
CMD ["--help"]

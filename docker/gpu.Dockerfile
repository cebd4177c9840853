# maenas on an NVIDIA GPU. Not built yet: written without Docker at hand.
#
# The wheels of PyTorch and TensorRT bring their CUDA libraries along. The host needs the NVIDIA container toolkit and a
# driver for CUDA 13 (580 or newer).
#
#   docker build -f docker/gpu.Dockerfile -t maenas-gpu .
#   docker run --rm --gpus all --ipc=host -v "$PWD:/work" maenas-gpu profile --device cuda --runtime torch
FROM python:3.12-slim

COPY . /src
RUN pip install --no-cache-dir '/src[detector,gpu,report]'

WORKDIR /work
ENTRYPOINT ["maenas"]
CMD ["--help"]
